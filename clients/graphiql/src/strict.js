// Lets Monaco work under a policy that allows no inline styles (`default-src 'self'`). Such a policy
// blocks `<style>` and the attribute `style` in HTML, but neither constructed style sheets nor the
// property `style`.

class AdoptedStyle extends HTMLElement {
  sheet = new CSSStyleSheet();
  #text = '';

  connectedCallback() {
    document.adoptedStyleSheets.push(this.sheet);
  }

  disconnectedCallback() {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((each) => each !== this.sheet);
  }

  get textContent() {
    return this.#text;
  }

  set textContent(css) {
    this.#text = css;
    this.sheet.replaceSync(css);
  }

  appendChild(node) {
    this.textContent += node.textContent;
    return node;
  }
}

customElements.define('adopted-style', AdoptedStyle);

const createElement = document.createElement.bind(document);
document.createElement = (name, options) =>
  createElement(name === 'style' ? 'adopted-style' : name, options);

// Only within tags: the text of an editor may contain `style=` too.
function renamed(html) {
  return String(html).replace(/<[^>]*>/g, (tag) => tag.replace(/\sstyle="/g, ' data-style="'));
}

function restyle(root) {
  for (const element of root?.querySelectorAll('[data-style]') ?? []) {
    element.style.cssText = element.dataset.style;
    element.removeAttribute('data-style');
  }
}

const innerHTML = Object.getOwnPropertyDescriptor(Element.prototype, 'innerHTML');
Object.defineProperty(Element.prototype, 'innerHTML', {
  ...innerHTML,
  set(html) {
    innerHTML.set.call(this, renamed(html));
    restyle(this);
  },
});

const { insertAdjacentHTML, setAttribute } = Element.prototype;
Element.prototype.insertAdjacentHTML = function (position, html) {
  insertAdjacentHTML.call(this, position, renamed(html));
  restyle(this.parentNode ?? this);
};
Element.prototype.setAttribute = function (name, value) {
  if (name === 'style') this.style.cssText = value;
  else setAttribute.call(this, name, value);
};

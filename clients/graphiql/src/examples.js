// An example of each kind of operation, made from the schema.
import {
  getNamedType,
  getNullableType,
  isCompositeType,
  isEnumType,
  isInputObjectType,
  isListType,
  isRequiredArgument,
  isRequiredInputField,
  isScalarType,
  isUnionType,
  parse,
  print,
} from 'graphql';

const DEPTH = 3;
const MAX_FIELDS = 5;
const NUMBERS = ['Int', 'Float'];

const HINTS = {
  query: '# Press Ctrl+Enter to run it.',
  subscription: '# Run it, and go to the next tab.\n# Its events are listed on the left.',
  mutation: '# Run it while a subscription runs.',
};

/** The tabs of a new page: a query, a subscription and a mutation, if the schema has them. */
export function exampleTabs(schema) {
  const roots = {
    query: schema.getQueryType(),
    subscription: schema.getSubscriptionType(),
    mutation: schema.getMutationType(),
  };
  return Object.entries(roots)
    .filter(([, type]) => type)
    .map(([kind, type]) => ({ query: `${HINTS[kind]}\n${operation(kind, type)}\n` }));
}

function operation(kind, root) {
  const fields = Object.values(root.getFields());
  const field = fields.find((each) => !each.args.some(isRequiredArgument)) ?? fields[0];
  const name = field.name[0].toUpperCase() + field.name.slice(1);
  return print(parse(`${kind} ${name} { ${selected(field, DEPTH)} }`));
}

function selected(field, depth) {
  const given = field.args.filter(isRequiredArgument);
  const values = given.map((argument) => `${argument.name}: ${literal(argument.type)}`);
  const call = values.length ? `${field.name}(${values.join(', ')})` : field.name;
  const type = getNamedType(field.type);
  return isCompositeType(type) ? `${call} { ${selection(type, depth - 1)} }` : call;
}

function selection(type, depth) {
  if (isUnionType(type)) return '__typename';
  const fields = Object.values(type.getFields())
    .filter((field) => !field.args.some(isRequiredArgument))
    .filter((field) => depth > 0 || !isCompositeType(getNamedType(field.type)));
  const chosen = fields.slice(0, MAX_FIELDS).map((field) => selected(field, depth));
  return chosen.join(' ') || '__typename';
}

function literal(wrapped) {
  const type = getNullableType(wrapped);
  if (isListType(type)) return `[${literal(type.ofType)}]`;
  if (isEnumType(type)) return type.getValues()[0].name;
  if (isInputObjectType(type)) {
    const fields = Object.values(type.getFields()).filter(isRequiredInputField);
    return `{${fields.map((field) => `${field.name}: ${literal(field.type)}`).join(', ')}}`;
  }
  if (isScalarType(type) && NUMBERS.includes(type.name)) return '1';
  return type.name === 'Boolean' ? 'true' : '"example"';
}

/* The load client: subscribers of graphql-transport-ws, and the one who publishes.
 *
 *     load PORT < commands
 *
 * It reads a command a line and answers each with a line of JSON; what a server does wrong ends it
 * with {"error": "..."}.
 *
 *     tokens FILE           a token a line: connection N has line N, from the first again at the end
 *     init TEXT             what connections send first, the message connection_init; $TOKEN becomes
 *                           the token of the connection
 *     subscribe TEXT        what they send when they are acknowledged; $ID and $NUMBER become the
 *                           operation's id and the connection's number, $AFTER extensions with the
 *                           last cursor, if there is one
 *     publish COUNT TEXT    the request that publishes COUNT events; $SEQ becomes the number of the
 *                           next event, $NOW the time in milliseconds
 *     header TEXT           a header line for that request over HTTP; $TOKEN becomes the first token
 *     publishers N PORT     publish over N WebSockets in turn to the server on PORT, not over HTTP
 *     odd PORT              connections with an odd number are made to PORT from now on
 *     expect TEXT           what the first message of each connection must contain
 *     connect N AT_ONCE     N more connections; each is done when it has said connection_init,
 *                           subscribe and ping, and has heard connection_ack and pong
 *     join N AT_ONCE        the same without subscribe
 *     ask                   the connections that joined subscribe, all at once
 *     rounds N COUNT WINDOW MS   publish COUNT events N times, but begin none after MS milliseconds;
 *                           all subscribers have to have them before the next, or before the one
 *                           after the next where WINDOW is 2, and so on; the events of publications
 *                           under way together may come in any order, the same for all
 *     rate N MICROSECONDS   publish an event N times, one each so many microseconds; delays are
 *                           those since the time in the event
 *     open N MICROSECONDS MS   the same without waiting for the server, and delays are those since
 *                           the event was due; give up MS milliseconds after the last one was due;
 *                           another command ends it early
 *     post COUNT            publish, whoever hears it
 *     wait COUNT            until each has had COUNT events since it subscribed
 *     reach COUNT           until each has had COUNT events or more
 *     stop                  nothing, but it ends `open`
 *     sample                show the last message that was the first of its connection
 *     drop                  close all connections; cursors are kept for those who connect again
 *     forget                forget all cursors: who connects again asks for none
 *     close                 close all connections and forget them
 *
 * While something is going on it looks for news without sleeping: to wake a sleeping process of the
 * same machine is work, it would be counted as the server's, and no server has its clients there.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 16384, MAX_POSTS = 4, MAX_PUBLISHERS = 64, MAX_TEMPLATES = 8 };
enum { MAX_OPEN = 1 << 16, READ_BYTES = 1 << 18, TEXT_BYTES = 1 << 15, TOKEN_BYTES = 1 << 10 };

static const uint64_t AWAKE_NS = 1000 * 1000;
static const uint64_t PATIENCE_NS = 30ull * 1000 * 1000 * 1000;
static const uint64_t IDLE_HTTP_NS = 500ull * 1000 * 1000;

enum state { CLOSED, CONNECTING, UPGRADING, INITIALISING, PINGING, READY };
enum role { SUBSCRIBER, POST, PUBLISHER };

struct bytes {
    char *data;
    size_t size, room;
};

/* A subscriber, a connection that publishes over HTTP, or one that publishes over a WebSocket. */
struct client {
    int fd, number;
    enum role role;
    enum state state;
    bool asked;
    uint64_t events, seq, sum, order;
    char cursor[48];
    struct bytes in;
    int unanswered;
    uint64_t used;
};

struct template {
    int count;
    char text[TEXT_BYTES];
};

static int epoll, port, odd_port;
static char sample[TEXT_BYTES] = "null";
static char init_text[TEXT_BYTES], subscribe_text[TEXT_BYTES];
static char expected_text[TEXT_BYTES], header_text[TEXT_BYTES] = "X-Load: 1";
static char (*tokens)[TOKEN_BYTES];
static struct template templates[MAX_TEMPLATES];
static struct client clients[MAX_CLIENTS], posts[MAX_POSTS], publishers[MAX_PUBLISHERS];
static int count, connecting, tokens_size, templates_size, publishers_size;
static uint64_t published_events, published_messages;
static bool joining, interrupted;
static uint64_t received, received_bytes, answered, last;
static uint64_t due[MAX_OPEN];
static double *delays;
static size_t delays_size, delays_room;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static _Noreturn void fail(const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\') *c = '\'';
        if ((unsigned char)*c < ' ') *c = ' ';
    }
    printf("{\"error\": \"%s\"}\n", text);
    fflush(stdout);
    exit(1);
}

static void append(struct bytes *to, const void *data, size_t size) {
    if (to->size + size > to->room) {
        to->room = 2 * (to->size + size);
        to->data = realloc(to->data, to->room);
        if (!to->data) fail("out of memory");
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

static void take(struct bytes *from, size_t size) {
    from->size -= size;
    memmove(from->data, from->data + size, from->size);
}

/* What a client sends is small, and the server reads it: the kernel always has room for it. */
static void send_all(int fd, const void *data, size_t size) {
    if (send(fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) fail("send: %s", strerror(errno));
}

static size_t add_frame(char *out, int opcode, const char *text, size_t size) {
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t head = 2;
    out[0] = (char)(0x80 | opcode);
    if (size < 126) {
        out[1] = (char)(0x80 | size);
    } else {
        out[1] = (char)(0x80 | 126);
        out[2] = (char)(size >> 8);
        out[3] = (char)size;
        head = 4;
    }
    memcpy(out + head, mask, 4);
    head += 4;
    for (size_t i = 0; i < size; i++) out[head + i] = (char)(text[i] ^ mask[i & 3]);
    return head + size;
}

static void send_text(struct client *c, const char *text) {
    char out[TEXT_BYTES + 16];
    send_all(c->fd, out, add_frame(out, 1, text, strlen(text)));
}

static bool replace(char *text, const char *name, const char *value) {
    char *at = strstr(text, name);
    if (!at) return false;
    size_t rest = strlen(at + strlen(name)) + 1;
    if (strlen(text) + strlen(value) >= TEXT_BYTES) fail("too long a text");
    memmove(at + strlen(value), at + strlen(name), rest);
    memcpy(at, value, strlen(value));
    return true;
}

static const char *token_of(int number) { return tokens_size ? tokens[number % tokens_size] : ""; }

static void subscription_of(const struct client *c, char *text) {
    char id[64], number[16], after[96] = "";
    snprintf(id, sizeof id, "3f0c8a52-6d1e-4b7a-9c35-%012d", c->number);
    if (c->cursor[0])
        snprintf(after, sizeof after, ",\"extensions\":{\"after\":\"%s\"}", c->cursor);
    snprintf(number, sizeof number, "%d", c->number);
    strcpy(text, subscribe_text);
    replace(text, "$ID", id);
    replace(text, "$NUMBER", number);
    replace(text, "$AFTER", after);
}

static void subscribe_and_ping(struct client *c) {
    static const char ping[] = "{\"type\":\"ping\"}";
    char text[TEXT_BYTES], out[TEXT_BYTES + 64];
    size_t size = 0;
    if (!joining && c->role == SUBSCRIBER) {
        subscription_of(c, text);
        size = add_frame(out, 1, text, strlen(text));
        c->asked = true;
    }
    size += add_frame(out + size, 1, ping, strlen(ping));
    send_all(c->fd, out, size);
}

static void watch(struct client *c, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, how, c->fd, &event) < 0) fail("epoll_ctl: %s", strerror(errno));
}

static int dial(int port, int flags) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0), on = 1;
    if (fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0) fail("fcntl: %s", strerror(errno));
    return fd;
}

/* Does not wait for the server: many may connect at once, and it accepts them one by one. */
static void open_client(struct client *c, int port) {
    c->fd = dial(port, SOCK_NONBLOCK);
    c->in.size = 0;
    c->state = CONNECTING;
    c->asked = false;
    c->events = 0;
    watch(c, EPOLLOUT, EPOLL_CTL_ADD);
    connecting++;
}

static void on_connected(struct client *c) {
    char request[512];
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) fail("connect: %s", strerror(error));
    c->state = UPGRADING;
    watch(c, EPOLLIN, EPOLL_CTL_MOD);
    int size = snprintf(request, sizeof request,
                        "GET /graphql HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                        "Sec-WebSocket-Version: 13\r\n"
                        "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n",
                        port);
    send_all(c->fd, request, (size_t)size);
}

static void close_client(struct client *c) {
    if (c->fd < 0) return;
    close(c->fd);
    c->fd = -1;
    c->state = CLOSED;
    c->in.size = 0;
}

/* ---- what comes in ---- */

/* The value of a key of a message, which is not searched for beyond `end`; spaces are allowed. */
static const char *value_of(const char *from, const char *end, const char *key) {
    const char *at = memmem(from, (size_t)(end - from), key, strlen(key));
    if (!at) return NULL;
    at += strlen(key);
    while (at < end && (*at == ' ' || *at == ':')) at++;
    return at;
}

static void remember_delay(double milliseconds) {
    if (delays_size == delays_room) {
        delays_room = delays_room ? 2 * delays_room : 1 << 16;
        delays = realloc(delays, delays_room * sizeof *delays);
        if (!delays) fail("out of memory");
    }
    delays[delays_size++] = milliseconds;
}

static enum { NO_DELAY, SINCE_SENT, SINCE_DUE } measuring;
static bool keeping_cursors, any_order;

/* Cursors end with a number that counts the events of a topic, in the order of the broker. */
static uint64_t number_of(const char *cursor) {
    const char *at = strrchr(cursor, '-');
    return at ? strtoull(at + 1, NULL, 10) : 0;
}

static void take_cursor(struct client *c, const char *text, const char *end) {
    const char *at = value_of(text, end, "\"cursor\"");
    uint64_t before = number_of(c->cursor);
    size_t size = 0;
    if (!at || *at != '"') fail("a message without a cursor: %.*s", (int)(end - text), text);
    for (at++; at + size < end && at[size] != '"' && size < sizeof c->cursor - 1;) size++;
    memcpy(c->cursor, at, size);
    c->cursor[size] = 0;
    if (before && number_of(c->cursor) != before + 1)
        fail("connection %d got cursor %s after number %lu", c->number, c->cursor, before);
}

static double delay_of(const struct client *c, const char *text, const char *end) {
    double time = (double)now() / 1e6;
    if (measuring == SINCE_DUE) return time - (double)due[c->events] / 1e6;
    const char *at = value_of(text, end, "\"sentAt\"");
    if (!at) fail("a message without sentAt: %.*s", (int)(end - text), text);
    return time - strtod(at, NULL);
}

static void on_next(struct client *c, const char *text, const char *end) {
    const char *at = value_of(text, end, "\"seq\"");
    if (!at) fail("not the message that was asked for: %.*s", (int)(end - text), text);
    uint64_t seq = strtoull(at, NULL, 10);
    if (c->seq && seq != c->seq + 1 && !any_order && !keeping_cursors)
        fail("connection %d got event %lu after event %lu", c->number, seq, c->seq);
    if (!c->events) {
        if (!memmem(text, (size_t)(end - text), expected_text, strlen(expected_text)))
            fail("not the text that was published: %.*s", (int)(end - text), text);
        snprintf(sample, sizeof sample, "%.*s", (int)(end - text), text);
    }
    if (measuring) remember_delay(delay_of(c, text, end));
    if (keeping_cursors) take_cursor(c, text, end);
    if (seq > c->seq) c->seq = seq;
    c->sum += seq;
    c->order = c->order * 31 + seq;
    c->events++;
    received++;
    received_bytes += (size_t)(end - text);
}

static bool begins(const char *text, const char *end, const char *word) {
    size_t size = strlen(word);
    return (size_t)(end - text) >= size && !memcmp(text, word, size);
}

/* Every stock client answers a ping with its payload. */
static void answer_ping(struct client *c, const char *type, const char *text, const char *end) {
    char pong[TEXT_BYTES];
    size_t size = (size_t)(end - text);
    if (size >= sizeof pong) fail("too long a ping");
    memcpy(pong, text, size);
    pong[size] = 0;
    memcpy(pong + (type - text), "\"pong\"", 6);
    send_text(c, pong);
}

static void on_published(struct client *c, const char *type, const char *text, const char *end) {
    if (begins(type, end, "\"complete\"")) {
        c->unanswered--;
        answered++;
        return;
    }
    if (!begins(type, end, "\"next\"") || memmem(text, (size_t)(end - text), "\"errors\"", 8))
        fail("publishing failed: %.*s", (int)(end - text), text);
}

static void on_message(struct client *c, const char *text, const char *end) {
    const char *type = value_of(text, end, "\"type\"");
    if (!type) fail("a message without a type: %.*s", (int)(end - text), text);
    if (begins(type, end, "\"next\"") && c->role == SUBSCRIBER) return on_next(c, text, end);
    if (begins(type, end, "\"ping\"")) return answer_ping(c, type, text, end);
    if (begins(type, end, "\"connection_ack\"") && c->state == INITIALISING) {
        c->state = PINGING;
        return subscribe_and_ping(c);
    }
    if (begins(type, end, "\"pong\"") && c->state == PINGING) {
        c->state = READY;
        connecting--;
        return;
    }
    if (begins(type, end, "\"ka\"")) return;
    if (c->role == PUBLISHER && c->state == READY) return on_published(c, type, text, end);
    fail("unexpected: %.*s", (int)(end - text), text);
}

static void on_frame(struct client *c, int opcode, const char *data, size_t size) {
    char out[256];
    if (opcode == 1) return on_message(c, data, data + size);
    if (opcode == 9 && size < 126) return send_all(c->fd, out, add_frame(out, 10, data, size));
    if (opcode == 10) return;
    if (opcode == 8)
        fail("connection %d was closed: %d %.*s", c->number,
             size < 2 ? 0 : (unsigned char)data[0] << 8 | (unsigned char)data[1],
             size < 2 ? 0 : (int)size - 2, data + 2);
    fail("a frame with opcode %d", opcode);
}

/* Returns how many bytes were whole frames. */
static size_t on_frames(struct client *c, const char *data, size_t size) {
    size_t done = 0;
    while (size - done >= 2) {
        const unsigned char *at = (const unsigned char *)data + done;
        size_t head = 2, length = at[1] & 0x7f;
        if (at[0] >> 4 != 8 || at[1] & 0x80) fail("a frame that is not whole, or masked");
        if (length == 126) head = 4;
        if (length == 127) head = 10;
        if (size - done < head) break;
        if (head > 2) {
            length = 0;
            for (size_t i = 2; i < head; i++) length = length << 8 | at[i];
        }
        if (size - done < head + length) break;
        on_frame(c, at[0] & 0x0f, data + done + head, length);
        done += head + length;
    }
    return done;
}

static size_t on_upgrade(struct client *c, const char *data, size_t size) {
    const char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    if (!begins(data, end, "HTTP/1.1 101") ||
        !memmem(data, (size_t)(end - data), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 28))
        fail("no WebSocket: %.*s", (int)(end - data), data);
    char text[TEXT_BYTES];
    strcpy(text, init_text);
    replace(text, "$TOKEN", token_of(c->number));
    c->state = INITIALISING;
    send_text(c, text);
    return (size_t)(end + 4 - data);
}

static size_t on_bytes(struct client *c, const char *data, size_t size) {
    size_t done = c->state == UPGRADING ? on_upgrade(c, data, size) : 0;
    return c->state == UPGRADING ? done : done + on_frames(c, data + done, size - done);
}

static bool http_is_whole(const struct bytes *in) {
    const char *end = memmem(in->data, in->size, "\r\n\r\n", 4);
    if (!end) return false;
    size_t head = (size_t)(end + 4 - in->data);
    char headers[2048];
    snprintf(headers, sizeof headers, "%.*s", (int)head, in->data);
    const char *length = strcasestr(headers, "\r\ncontent-length:");
    if (length) return in->size >= head + strtoull(length + 17, NULL, 10);
    return in->size >= head + 5 && !memcmp(in->data + in->size - 5, "0\r\n\r\n", 5);
}

static void on_answer(struct client *c, const char *data, size_t size) {
    append(&c->in, data, size);
    if (!http_is_whole(&c->in)) return;
    if (!begins(c->in.data, c->in.data + c->in.size, "HTTP/1.1 200") ||
        memmem(c->in.data, c->in.size, "\"errors\"", 8))
        fail("publishing failed: %.*s", (int)c->in.size, c->in.data);
    c->in.size = 0;
    c->unanswered = 0;
    c->used = now();
    answered++;
}

static void on_readable(struct client *c) {
    static char buffer[READ_BYTES];
    if (c->state == CONNECTING) return on_connected(c);
    ssize_t size = recv(c->fd, buffer, sizeof buffer, 0);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) {
        if (c->role == POST && !c->unanswered) return close_client(c);
        fail("connection %d was cut: %s", c->number, size ? strerror(errno) : "end of stream");
    }
    if (c->role == POST) return on_answer(c, buffer, (size_t)size);
    if (!c->in.size) {
        size_t done = on_bytes(c, buffer, (size_t)size);
        if (done < (size_t)size) append(&c->in, buffer + done, (size_t)size - done);
        return;
    }
    append(&c->in, buffer, (size_t)size);
    take(&c->in, on_bytes(c, c->in.data, c->in.size));
}

/* Returns how many were clients: the other one is our input, which is read after this command. */
static int handle(const struct epoll_event *events, int n) {
    int clients = n;
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr) {
            on_readable(events[i].data.ptr);
            continue;
        }
        interrupted = true;
        clients--;
    }
    return clients;
}

/* Handle what has come; sleep only where nothing has come for a while, and not beyond `until`. */
static void turn(uint64_t until) {
    static struct epoll_event events[1024];
    uint64_t time = now();
    bool asleep = time - last > AWAKE_NS && until > time + 2 * AWAKE_NS;
    int n = epoll_wait(epoll, events, 1024, asleep ? 1 : 0);
    if (n < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    if (n > 0) last = now();
    if (n == 0 && !asleep) sched_yield();
    handle(events, n);
    if (n == 0 && now() - last > PATIENCE_NS) fail("nothing has come for half a minute");
}

static void turns_until_idle(void) {
    static struct epoll_event events[1024];
    int n;
    while ((n = epoll_wait(epoll, events, 1024, 0)) > 0)
        if (handle(events, n) == 0) break;
}

/* ---- what goes out ---- */

static void request_of(int events, char *text) {
    char number[32];
    struct template *t = templates;
    while (t < templates + templates_size && t->count != events) t++;
    if (t == templates + templates_size) fail("nothing publishes %d events", events);
    strcpy(text, t->text);
    for (;;) {
        snprintf(number, sizeof number, "%lu", published_events + 1);
        if (!replace(text, "$SEQ", number)) return;
        published_events++;
        snprintf(number, sizeof number, "%.3f", (double)now() / 1e6);
        replace(text, "$NOW", number);
    }
}

static void post_over_websocket(const char *body) {
    char text[2 * TEXT_BYTES];
    struct client *c = &publishers[published_messages++ % (uint64_t)publishers_size];
    snprintf(text, sizeof text, "{\"id\":\"p%lu\",\"type\":\"subscribe\",\"payload\":%s}",
             published_messages, body);
    c->unanswered++;
    send_text(c, text);
}

static void post_over_http(const char *body) {
    char request[2 * TEXT_BYTES + 512];
    struct client *c = posts;
    while (c < posts + MAX_POSTS && c->unanswered) c++;
    if (c == posts + MAX_POSTS) fail("%d publications are not answered", MAX_POSTS);
    if (c->fd >= 0 && now() - c->used > IDLE_HTTP_NS) close_client(c);
    if (c->fd < 0) {
        c->fd = dial(port, 0);
        watch(c, EPOLLIN, EPOLL_CTL_ADD);
    }
    int size = snprintf(request, sizeof request,
                        "POST /graphql HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                        "Content-Type: application/json\r\nAccept: application/json\r\n"
                        "Content-Length: %zu\r\n%s\r\n\r\n%s",
                        port, strlen(body), header_text, body);
    c->unanswered = 1;
    send_all(c->fd, request, (size_t)size);
}

static void post(int events) {
    char body[TEXT_BYTES];
    request_of(events, body);
    if (publishers_size) return post_over_websocket(body);
    post_over_http(body);
}

static int unanswered(void) {
    int n = 0;
    for (struct client *c = posts; c < posts + MAX_POSTS; c++) n += c->unanswered;
    for (struct client *c = publishers; c < publishers + publishers_size; c++) n += c->unanswered;
    return n;
}

static uint64_t subscribers(void) {
    uint64_t n = 0;
    for (int i = 0; i < count; i++) n += clients[i].asked;
    return n;
}

static void start_counting(void) {
    turns_until_idle();
    received = received_bytes = answered = 0;
    for (int i = 0; i < count; i++) clients[i].events = clients[i].sum = clients[i].order = 0;
}

static void check_counts(uint64_t events) {
    const struct client *first = NULL;
    turns_until_idle();
    for (struct client *c = clients; c < clients + count; c++) {
        if (!c->asked) continue;
        if (!first) first = c;
        if (c->events != events)
            fail("connection %d got %lu events and not %lu", c->number, c->events, events);
        if (c->sum != events * c->seq - events * (events - 1) / 2)
            fail("connection %d did not get each event once", c->number);
        if (c->order != first->order) fail("connection %d got another order", c->number);
    }
}

static void wait_for(uint64_t deliveries, int posts_left) {
    uint64_t before = received, began = now();
    while (received < deliveries || unanswered() > posts_left) {
        turn(UINT64_MAX);
        if (received != before) before = received, began = now();
        if (now() - began > PATIENCE_NS)
            fail("only %lu of %lu deliveries after half a minute, %d answers are missing", received,
                 deliveries, unanswered());
    }
}

/* ---- commands ---- */

static void done(uint64_t began) {
    printf("{\"ns\": %lu, \"received\": %lu, \"bytes\": %lu}\n", now() - began, received,
           received_bytes);
    fflush(stdout);
}

static void do_connect(int more, int at_once) {
    uint64_t began = now();
    int first = 0, opened = 0;
    while (first < count && clients[first].fd >= 0) first++;
    if (first + more > MAX_CLIENTS) fail("too many connections");
    if (count < first + more) count = first + more;
    while (opened < more || connecting) {
        while (opened < more && connecting < at_once) {
            int number = first + opened++;
            open_client(&clients[number], odd_port && number % 2 ? odd_port : port);
        }
        turn(UINT64_MAX);
    }
    done(began);
}

static void do_publishers(int many, int at_port) {
    uint64_t began = now();
    if (many > MAX_PUBLISHERS) fail("too many publishers");
    for (int i = 0; i < publishers_size; i++) close_client(&publishers[i]);
    for (int i = 0; i < many; i++) open_client(&publishers[i], at_port);
    while (connecting) turn(UINT64_MAX);
    publishers_size = many;
    done(began);
}

static void do_ask(void) {
    uint64_t began = now();
    char text[TEXT_BYTES];
    start_counting();
    for (int i = 0; i < count; i++) {
        clients[i].asked = true;
        subscription_of(&clients[i], text);
        send_text(&clients[i], text);
    }
    done(began);
}

static void do_rounds(int rounds, int events, int window, int milliseconds) {
    uint64_t began = now(), until = began + (uint64_t)milliseconds * 1000000, each = 0;
    start_counting();
    /* Of two who publish at the same time, the later one's event may come first. */
    any_order = window > 1;
    each = subscribers() * (uint64_t)events;
    uint64_t published = 0;
    while (published < (uint64_t)rounds && (!published || now() < until)) {
        if (published >= (uint64_t)window)
            wait_for((published - (uint64_t)window + 1) * each, window - 1);
        post(events);
        published++;
    }
    wait_for(published * each, 0);
    uint64_t ended = now();
    check_counts(published * (uint64_t)events);
    any_order = false;
    printf("{\"ns\": %lu, \"rounds\": %lu, \"events\": %lu, \"received\": %lu, \"bytes\": %lu}\n",
           ended - began, published, published * (uint64_t)events, received, received_bytes);
    fflush(stdout);
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double part) {
    if (!delays_size) return 0;
    size_t at = (size_t)(part * (double)delays_size);
    return delays[at < delays_size ? at : delays_size - 1];
}

static void do_rate(int events, int microseconds) {
    uint64_t began, late = 0;
    start_counting();
    delays_size = 0;
    measuring = SINCE_SENT;
    began = now();
    for (int i = 0; i < events; i++) {
        uint64_t due = began + (uint64_t)i * (uint64_t)microseconds * 1000;
        while (now() < due) turn(due);
        if (unanswered() == MAX_POSTS) wait_for(0, MAX_POSTS - 1);
        uint64_t behind = now() - due;
        if (behind > late) late = behind;
        post(1);
    }
    wait_for((uint64_t)events * subscribers(), 0);
    measuring = NO_DELAY;
    uint64_t ended = now();
    check_counts((uint64_t)events);
    qsort(delays, delays_size, sizeof *delays, by_size);
    printf("{\"ns\": %lu, \"received\": %lu, \"late_ms\": %.3f, \"p50_ms\": %.4f, \"p99_ms\": "
           "%.4f, \"max_ms\": %.4f}\n",
           ended - began, received, (double)late / 1e6, percentile(0.5), percentile(0.99),
           percentile(1));
    fflush(stdout);
}

/* What has not come by now has a delay that is at least so long. */
static void remember_missing(uint64_t events) {
    uint64_t time = now();
    for (struct client *c = clients; c < clients + count; c++)
        for (uint64_t i = c->events; c->asked && i < events; i++)
            remember_delay((double)(time - due[i]) / 1e6);
}

static void do_open(int events, int microseconds, int patience) {
    uint64_t began, until, all;
    if (events > MAX_OPEN) fail("too many events");
    start_counting();
    delays_size = 0;
    measuring = SINCE_DUE;
    any_order = true;
    began = now();
    for (int i = 0; i < events; i++) due[i] = began + (uint64_t)i * (uint64_t)microseconds * 1000;
    interrupted = false;
    for (int i = 0; i < events; i++) {
        while (now() < due[i] && !interrupted) turn(due[i]);
        if (interrupted) events = i;
        if (!interrupted) post(1);
    }
    if (!events) fail("nothing was published");
    all = (uint64_t)events * subscribers();
    until = due[events - 1] + (uint64_t)patience * 1000000;
    while ((received < all || unanswered()) && now() < until) turn(until);
    uint64_t ended = now();
    measuring = NO_DELAY;
    any_order = false;
    if (received == all) check_counts((uint64_t)events);
    remember_missing((uint64_t)events);
    qsort(delays, delays_size, sizeof *delays, by_size);
    printf("{\"ns\": %lu, \"received\": %lu, \"expected\": %lu, \"overtime_ms\": %.3f, "
           "\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f}\n",
           ended - began, received, all, (double)(ended - due[events - 1]) / 1e6, percentile(0.5),
           percentile(0.99), percentile(1));
    fflush(stdout);
}

static void do_post(int events) {
    uint64_t began = now(), before = answered;
    post(events);
    while (answered == before) turn(UINT64_MAX);
    done(began);
}

static void do_wait(uint64_t events) {
    uint64_t began = now();
    wait_for(events * subscribers(), 0);
    check_counts(events);
    done(began);
}

static void do_reach(uint64_t events) {
    uint64_t began = now();
    for (int i = 0; i < count; i++)
        while (clients[i].events < events) turn(UINT64_MAX);
    done(began);
}

static void do_sample(void) {
    printf("{\"sample\": %s}\n", sample);
    fflush(stdout);
}

static void do_drop(bool forget) {
    turns_until_idle();
    for (int i = 0; i < count; i++) {
        close_client(&clients[i]);
        clients[i].asked = false;
        clients[i].events = 0;
        if (!forget) continue;
        clients[i].seq = 0;
        clients[i].cursor[0] = 0;
    }
    if (forget) count = 0;
    received = received_bytes = 0;
    done(now());
}

static void do_forget(void) {
    for (int i = 0; i < count; i++) clients[i].cursor[0] = 0;
    done(now());
}

static bool keep(const char *line, const char *name, char *text) {
    size_t size = strlen(name);
    if (strncmp(line, name, size) || line[size] != ' ') return false;
    snprintf(text, TEXT_BYTES, "%s", line + size + 1);
    if (text == subscribe_text) keeping_cursors = strstr(text, "$AFTER") != NULL;
    done(now());
    return true;
}

static bool keep_template(const char *line) {
    int events, at = 0;
    if (sscanf(line, "publish %d %n", &events, &at) != 1 || !at) return false;
    struct template *t = templates;
    while (t < templates + templates_size && t->count != events) t++;
    if (t == templates + MAX_TEMPLATES) fail("too many templates");
    if (t == templates + templates_size) templates_size++;
    t->count = events;
    snprintf(t->text, TEXT_BYTES, "%s", line + at);
    done(now());
    return true;
}

static void read_tokens(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) fail("%s: %s", path, strerror(errno));
    tokens_size = 0;
    tokens = realloc(tokens, MAX_CLIENTS * sizeof *tokens);
    while (tokens_size < MAX_CLIENTS && fgets(tokens[tokens_size], TOKEN_BYTES, file)) {
        tokens[tokens_size][strcspn(tokens[tokens_size], "\n")] = 0;
        tokens_size++;
    }
    fclose(file);
    done(now());
}

static void obey(const char *line) {
    int a, b, c, d;
    last = now();
    if (!strncmp(line, "tokens ", 7)) return read_tokens(line + 7);
    if (keep(line, "header", header_text)) {
        replace(header_text, "$TOKEN", token_of(0));
        return;
    }
    if (keep(line, "init", init_text) || keep(line, "subscribe", subscribe_text) ||
        keep(line, "expect", expected_text) || keep_template(line))
        return;
    joining = !strncmp(line, "join ", 5);
    if (sscanf(line, "connect %d %d", &a, &b) == 2) return do_connect(a, b);
    if (sscanf(line, "join %d %d", &a, &b) == 2) return do_connect(a, b);
    if (sscanf(line, "rounds %d %d %d %d", &a, &b, &c, &d) == 4) return do_rounds(a, b, c, d);
    if (sscanf(line, "publishers %d %d", &a, &b) == 2) return do_publishers(a, b);
    if (sscanf(line, "open %d %d %d", &a, &b, &c) == 3) return do_open(a, b, c);
    if (sscanf(line, "rate %d %d", &a, &b) == 2) return do_rate(a, b);
    if (sscanf(line, "post %d", &a) == 1) return do_post(a);
    if (sscanf(line, "wait %d", &a) == 1) return do_wait((uint64_t)a);
    if (sscanf(line, "reach %d", &a) == 1) return do_reach((uint64_t)a);
    if (sscanf(line, "odd %d", &odd_port) == 1 || !strcmp(line, "stop")) return done(now());
    if (!strcmp(line, "ask")) return do_ask();
    if (!strcmp(line, "sample")) return do_sample();
    if (!strcmp(line, "drop")) return do_drop(false);
    if (!strcmp(line, "forget")) return do_forget();
    if (!strcmp(line, "close")) return do_drop(true);
    fail("no such command: %s", line);
}

/* Between commands as well, a server that pings is answered. */
static bool read_line(char *line, int size) {
    int used = 0;
    for (;;) {
        struct epoll_event events[64];
        int n = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr) {
                on_readable(events[i].data.ptr);
                continue;
            }
            /* The harness waits for the answer to a line before it writes the next. */
            ssize_t got = read(0, line + used, (size_t)(size - 1 - used));
            if (got <= 0) return false;
            used += (int)got;
            if (line[used - 1] == '\n') {
                line[used - 1] = 0;
                return true;
            }
            if (used == size - 1) fail("too long a command");
        }
    }
}

static void prepare(void) {
    struct rlimit limit;
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input) < 0)
        fail("epoll: %s", strerror(errno));
    for (int i = 0; i < MAX_CLIENTS; i++) clients[i].fd = -1, clients[i].number = i;
    for (int i = 0; i < MAX_POSTS; i++) posts[i].fd = posts[i].number = -1, posts[i].role = POST;
    for (int i = 0; i < MAX_PUBLISHERS; i++)
        publishers[i].fd = -1, publishers[i].number = i, publishers[i].role = PUBLISHER;
}

int main(int argc, char **argv) {
    static char line[TEXT_BYTES];
    if (argc != 2) return 2;
    port = atoi(argv[1]);
    prepare();
    while (read_line(line, sizeof line)) obey(line);
    return 0;
}

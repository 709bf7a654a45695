/* The limit: a server that knows its clients' messages by heart and does one send() per delivery.
 *
 *     BENCH_TEXT=... limit PORT
 *
 * It takes the load client's handshake, connection_init, subscribe and ping, and the HTTP request
 * that publishes, or the same as a message. Each delivery has the bytes that gqlnotify would send,
 * with the operation's id put in, and is one write to one socket. No server that writes once per
 * event can be cheaper.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
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

enum { MAX_CLIENTS = 20000, ID_BYTES = 36, ID_AT = 11, BYTES = 8192 };

struct client {
    int fd, place;
    bool upgraded;
    char id[ID_BYTES];
    char in[BYTES];
    size_t size;
};

static struct client *subscribers[MAX_CLIENTS];
static int count;
static unsigned long seq;
static double longest_stretch_ms;
static const char *text;

static void put(const struct client *c, const void *data, size_t size) {
    if (send(c->fd, data, size, MSG_NOSIGNAL) < 0) perror("send");
}

static void put_text(const struct client *c, const char *text) {
    char frame[128] = {(char)0x81, (char)strlen(text)};
    memcpy(frame + 2, text, strlen(text));
    put(c, frame, 2 + strlen(text));
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static size_t make_frame(char *frame) {
    seq++;
    int size = snprintf(frame + 4, BYTES - 4,
                        "{\"id\":\"%036d\",\"type\":\"next\",\"payload\":{\"data\":{\"events\":{"
                        "\"seq\":%lu,\"sentAt\":%.3f,\"kind\":\"created\",\"text\":\"%s\"}},"
                        "\"extensions\":{\"cursor\":\"1760000000000-%lu\"}}}",
                        0, seq, now_ms(), text, seq);
    frame[0] = (char)0x81;
    frame[1] = 126;
    frame[2] = (char)(size >> 8);
    frame[3] = (char)size;
    return (size_t)size + 4;
}

static void deliver(void) {
    static char frame[BYTES];
    size_t size = make_frame(frame);
    for (int i = 0; i < count; i++) {
        memcpy(frame + ID_AT, subscribers[i]->id, ID_BYTES);
        put(subscribers[i], frame, size);
    }
}

static int publish(const char *body) {
    int n = atoi(strstr(body, "\"count\":") + 8);
    for (int i = 0; i < n; i++) deliver();
    return n;
}

static void publish_and_answer(struct client *c, const char *message, const char *id) {
    char answer[256];
    int size = (int)strcspn(id, "\""), n = publish(message);
    snprintf(answer, sizeof answer,
             "{\"id\":\"%.*s\",\"type\":\"next\",\"payload\":{\"data\":{\"publish\":%d}}}", size,
             id, n);
    put_text(c, answer);
    snprintf(answer, sizeof answer, "{\"id\":\"%.*s\",\"type\":\"complete\"}", size, id);
    put_text(c, answer);
}

static void on_message(struct client *c, const char *message) {
    if (strstr(message, "\"connection_init\"")) return put_text(c, "{\"type\":\"connection_ack\"}");
    if (strstr(message, "\"type\":\"ping\"")) return put_text(c, "{\"type\":\"pong\"}");
    const char *id = strstr(message, "\"id\":\"");
    if (id && strstr(message, "\"count\":")) return publish_and_answer(c, message, id + 6);
    if (!id || c->place >= 0) return;
    memcpy(c->id, id + 6, ID_BYTES);
    c->place = count;
    subscribers[count++] = c;
}

/* Returns how many bytes were a whole message, or 0. */
static size_t on_frame(struct client *c) {
    unsigned char *at = (unsigned char *)c->in, *mask;
    static char message[BYTES];
    if (c->size < 8) return 0;
    size_t head = (at[1] & 0x7f) == 126 ? 8 : 6;
    size_t size = head == 8 ? (size_t)at[2] << 8 | at[3] : at[1] & 0x7f;
    if (c->size < head + size) return 0;
    mask = at + head - 4;
    for (size_t i = 0; i < size; i++) message[i] = (char)(at[head + i] ^ mask[i & 3]);
    message[size] = 0;
    on_message(c, message);
    return head + size;
}

static void on_upgrade(struct client *c) {
    static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                 "Connection: Upgrade\r\n"
                                 "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
                                 "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n";
    put(c, answer, sizeof answer - 1);
    c->upgraded = true;
}

static void put_json(const struct client *c, const char *data) {
    char answer[256];
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                        "Content-Length: %zu\r\n\r\n%s",
                        strlen(data), data);
    put(c, answer, (size_t)size);
}

static void on_publish(const struct client *c, const char *body) {
    char data[64];
    snprintf(data, sizeof data, "{\"data\":{\"publish\":%d}}", publish(body));
    put_json(c, data);
}

static void tell_the_longest_stretch(const struct client *c) {
    char data[64];
    snprintf(data, sizeof data, "{\"ms\":%.3f,\"cpuMs\":%.3f}", longest_stretch_ms,
             longest_stretch_ms);
    longest_stretch_ms = 0;
    put_json(c, data);
}

/* Returns how many bytes were a whole request, or 0. */
static size_t on_request(struct client *c) {
    c->in[c->size] = 0;
    char *end = strstr(c->in, "\r\n\r\n"), *length = strstr(c->in, "Content-Length: ");
    if (!end) return 0;
    size_t size = (size_t)(end + 4 - c->in);
    if (!length) {
        if (strncmp(c->in, "GET /longest-stretch ", 21) == 0)
            tell_the_longest_stretch(c);
        else
            on_upgrade(c);
        return size;
    }
    size += strtoul(length + 16, NULL, 10);
    if (c->size < size) return 0;
    on_publish(c, end);
    return size;
}

static void forget(struct client *c) {
    if (c->place >= 0) {
        subscribers[c->place] = subscribers[--count];
        subscribers[c->place]->place = c->place;
    }
    close(c->fd);
    free(c);
}

static void on_readable(struct client *c) {
    ssize_t got = recv(c->fd, c->in + c->size, sizeof c->in - 1 - c->size, 0);
    if (got <= 0) return forget(c);
    c->size += (size_t)got;
    for (size_t done; c->size && (done = c->upgraded ? on_frame(c) : on_request(c));) {
        c->size -= done;
        memmove(c->in, c->in + done, c->size);
    }
}

static void on_connection(int epoll, int listener) {
    int on = 1;
    struct client *c = calloc(1, sizeof *c);
    if (!c) exit(1);
    c->fd = accept(listener, NULL, NULL);
    c->place = -1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

static int listen_on(int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, 2048) < 0) {
        perror("listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    static struct epoll_event events[1024];
    struct rlimit limit;
    text = getenv("BENCH_TEXT");
    if (argc != 2 || !text) return 2;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int epoll = epoll_create1(0), listener = listen_on(atoi(argv[1]));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll, events, 1024, -1);
        double began = now_ms();
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                on_readable(events[i].data.ptr);
            else
                on_connection(epoll, listener);
        }
        double took = now_ms() - began;
        if (took > longest_stretch_ms) longest_stretch_ms = took;
    }
}

/* The floor: an echo server of whole frames (u32be length, then the payload) on epoll, one thread, nothing but libc.

   With --raw it echoes bytes as they come, which is what servers without framing are compared to.

   What every other server is compared to, so it is written to win: one recv and one send a wake-up, answers sent from
   where they were received, nothing allocated for a connection that is between frames.  It does the whole job: lengths
   are checked before anything is stored, cut frames are completed, a peer that does not read is not read from.

   Never here: anything that a server of frames need not do (statistics, options, logs), and anything that it must not
   leave out (a frame is echoed when it is complete, not as its bytes pass).
   Read next: evloop/bench/load.c, which drives it.

   usage: epoll_echo [--raw] [PORT]        prints LISTENING tcp 127.0.0.1:PORT and runs until killed */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    HEADER = 4,
    MAX_FRAME = 16 << 20,    /* payload bytes; a peer that announces more is closed */
    SCRATCH = 256 << 10,     /* one read; shared, since nothing stays in it between two reads */
    WHOLE_AT_ONCE = HEADER + (1 << 20), /* a frame up to this is allocated when announced, a larger one doubles */
    EVENTS = 512,            /* 6 KiB; enough that epoll_wait is a small part of a busy turn */
    ACCEPTS = 64             /* per turn: a storm of connects delays the connected by about 1 ms */
};

struct conn {
    int fd;
    uint8_t head_have;    /* bytes of a cut header, while frame is NULL */
    uint8_t closing;      /* close once the output is sent */
    uint8_t head[HEADER];
    uint32_t have, total, room; /* of frame: bytes arrived, bytes of header and payload, bytes allocated */
    uint8_t *frame;       /* the one unfinished frame, header included */
    uint8_t *out;         /* what the kernel did not take; while it exists nothing is read */
    size_t out_at, out_end;
};

static int epoll_fd, spare_fd;
static uint8_t scratch[SCRATCH];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void conn_close(struct conn *c)
{
    close(c->fd); /* epoll forgets it: no other descriptor refers to the socket */
    free(c->frame);
    free(c->out);
    free(c);
}

static int watch(struct conn *c, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    return epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Keep what the kernel did not take of frame (n0 bytes; taken over) and scratch (n1 bytes), of which sent are gone. */
static int keep_output(struct conn *c, size_t n0, size_t n1, size_t sent)
{
    if (sent < n0) { /* the large frame itself: hand its buffer over, no copy */
        if (n1) {
            uint8_t *grown = realloc(c->frame, n0 + n1);
            if (!grown)
                return -1;
            c->frame = grown;
            memcpy(c->frame + n0, scratch, n1);
        }
        c->out = c->frame;
        c->frame = NULL;
        c->out_at = sent;
        c->out_end = n0 + n1;
    } else {
        sent -= n0;
        c->out = malloc(n1 - sent);
        if (!c->out)
            return -1;
        memcpy(c->out, scratch + sent, n1 - sent);
        c->out_at = 0;
        c->out_end = n1 - sent;
    }
    return watch(c, EPOLLOUT);
}

/* Send frame (n0 bytes) and scratch (n1 bytes) with one call.  Return -1 if the connection is dead. */
static int answer(struct conn *c, size_t n0, size_t n1)
{
    ssize_t sent;
    if (!n0) {
        sent = send(c->fd, scratch, n1, MSG_NOSIGNAL);
    } else {
        struct iovec iov[2] = {{c->frame, n0}, {scratch, n1}};
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n1 ? 2 : 1};
        sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
    }
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return -1;
        sent = 0;
    }
    return (size_t)sent < n0 + n1 ? keep_output(c, n0, n1, (size_t)sent) : 0;
}

/* Make room for the next bytes of the unfinished frame; memory follows what arrived. */
static int grow(struct conn *c)
{
    size_t room = c->total;
    if (room > WHOLE_AT_ONCE) {
        size_t doubled = c->have * (size_t)2;
        if (doubled < WHOLE_AT_ONCE)
            doubled = WHOLE_AT_ONCE;
        if (doubled < room)
            room = doubled;
    }
    uint8_t *grown = realloc(c->frame, room);
    if (!grown)
        return -1;
    c->frame = grown;
    c->room = (uint32_t)room;
    return 0;
}

/* Keep the n bytes at p, which begin a frame and do not complete it. */
static int keep_tail(struct conn *c, const uint8_t *p, size_t n)
{
    if (n < HEADER) {
        memcpy(c->head, p, n);
        c->head_have = (uint8_t)n;
        return 0;
    }
    c->total = HEADER + be32(p);
    c->have = (uint32_t)n;
    if (grow(c))
        return -1;
    memcpy(c->frame, p, n);
    return 0;
}

/* One read, and one answer to all the frames that it completed.  Return -1 if the connection is to be closed. */
static int on_readable(struct conn *c)
{
    size_t done = 0; /* bytes of c->frame, once that is complete */
    size_t n;
    ssize_t got;
    if (c->frame) {
        /* The rest of the frame goes where it belongs, and what follows it into the scratch buffer. */
        struct iovec iov[2] = {{c->frame + c->have, c->room - c->have}, {scratch, SCRATCH}};
        got = readv(c->fd, iov, c->room == c->total ? 2 : 1);
        if (got <= 0)
            return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
        if ((size_t)got < iov[0].iov_len || c->room < c->total) {
            c->have += (uint32_t)got;
            return c->have == c->room ? grow(c) : 0;
        }
        n = (size_t)got - iov[0].iov_len;
        done = c->total;
    } else {
        if (c->head_have)
            memcpy(scratch, c->head, c->head_have);
        got = recv(c->fd, scratch + c->head_have, SCRATCH - c->head_have, 0);
        if (got <= 0)
            return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
        n = (size_t)got + c->head_have;
        c->head_have = 0;
    }

    size_t at = 0;
    while (n - at >= HEADER) {
        uint32_t length = be32(scratch + at);
        if (length > MAX_FRAME) {
            c->closing = 1;
            break;
        }
        if (n - at - HEADER < length)
            break;
        at += HEADER + length;
    }
    if (done + at && answer(c, done, at))
        return -1;
    if (done) {
        free(c->frame); /* NULL if it became the output */
        c->frame = NULL;
    }
    if (c->closing)
        return c->out ? 0 : -1;
    return at < n ? keep_tail(c, scratch + at, n - at) : 0;
}

/* One read, and its bytes back.  Return -1 if the connection is to be closed. */
static int on_readable_raw(struct conn *c)
{
    ssize_t got = recv(c->fd, scratch, SCRATCH, 0);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    return answer(c, 0, (size_t)got);
}

static int on_writable(struct conn *c)
{
    ssize_t sent = send(c->fd, c->out + c->out_at, c->out_end - c->out_at, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    c->out_at += (size_t)sent;
    if (c->out_at < c->out_end)
        return 0;
    free(c->out);
    c->out = NULL;
    return c->closing ? -1 : watch(c, EPOLLIN);
}

static void on_acceptable(int listener)
{
    for (int i = 0; i < ACCEPTS; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE) {
                /* Level-triggered, the listener would spin: take the connection with the spare and let it go. */
                close(spare_fd);
                fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (fd >= 0)
                    close(fd);
                spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
            }
            return;
        }
        struct conn *c = calloc(1, sizeof *c);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
        if (c)
            c->fd = fd;
        if (!c || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev)) {
            free(c);
            close(fd);
        }
    }
}

static int listen_on(uint16_t port)
{
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof addr;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on))
        die("socket");
    /* Linux hands TCP_NODELAY on to the accepted: one call here instead of one a connection. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
        die("TCP_NODELAY");
    if (bind(fd, (struct sockaddr *)&addr, size) || listen(fd, 1024) ||
        getsockname(fd, (struct sockaddr *)&addr, &size))
        die("listen");
    printf("LISTENING tcp 127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS];
    struct rlimit files;
    int raw = argc > 1 && !strcmp(argv[1], "--raw");
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    /* Large frames come and go: from the heap their pages stay mapped, from mmap each would be 256 page faults.
       32 MiB is the most that glibc takes. */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        die("epoll_create1");
    int listener = listen_on(argc > 1 + raw ? (uint16_t)atoi(argv[1 + raw]) : 0);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &ev))
        die("epoll_ctl");
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        /* A connection is freed only in its own event, and has one event a turn: no pointer here is stale. */
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c)
                on_acceptable(listener);
            else if (c->out ? on_writable(c) : raw ? on_readable_raw(c) : on_readable(c))
                conn_close(c);
        }
    }
}

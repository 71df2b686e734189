/* The floor of fan-out: what anybody sends, whole frames (u32be length, then the payload), goes to all subscribers;
   epoll, one thread, nothing but libc.  An empty frame subscribes, and is answered with an empty frame.

   What every other server is compared to, so it is written to win: the frames of a turn are kept once, as they came,
   and leave with one send for each subscriber, from where they are; a subscriber has an output of its own only while
   its socket is full.  It does the whole job: lengths are checked, cut frames completed, and a subscriber that does not
   read is cut before it costs more than OUTPUT.

   Never here: topics, acknowledgements, history, logs; a frame that goes out before it is complete.
   Read next: evloop/bench/fanout.c, which drives it.

   usage: epoll_fanout        prints LISTENING tcp 127.0.0.1:PORT and runs until killed */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    HEADER = 4,
    MAX_FRAME = 1 << 20, /* payload bytes; a peer that announces more is closed */
    READ = 256 << 10,    /* one read, behind what the last one left */
    SAID = 1 << 20,      /* bytes that one turn gathers before they are sent on; what is unread waits in its socket */
    OUTPUT = 64 << 20,   /* bytes that wait for a subscriber: NATS' bound */
    EVENTS = 512,
    ACCEPTS = 64         /* a turn */
};

struct conn {
    int fd;
    uint32_t place;           /* in subscribers, from 1; 0: it is none */
    uint8_t dead;
    struct conn *next_dead;
    uint32_t kept, kept_room; /* bytes of a cut frame */
    uint8_t *cut;
    uint8_t *out;             /* what the kernel did not take; while it exists EPOLLOUT is armed */
    size_t out_at, out_end, out_room;
};

static int epoll_fd;
static struct conn **subscribers;
static uint32_t count, places;
static struct conn *dead; /* closed at the turn's end, when no event of it is left */
static uint8_t scratch[HEADER + MAX_FRAME + READ];
static uint8_t said[SAID + HEADER + MAX_FRAME + READ]; /* by everybody in this turn */
static size_t said_size;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void end(struct conn *c)
{
    if (c->dead)
        return;
    c->dead = 1;
    c->next_dead = dead;
    dead = c;
}

static void bury(struct conn *c)
{
    if (c->place) {
        struct conn *last = subscribers[--count];
        subscribers[c->place - 1] = last;
        last->place = c->place;
    }
    close(c->fd); /* epoll forgets it: no other descriptor refers to the socket */
    free(c->cut);
    free(c->out);
    free(c);
}

static void watch(struct conn *c, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev))
        die("epoll_ctl");
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Append to the output that waits for the socket.  A subscriber that it is too much for is dead. */
static void wait_with(struct conn *c, const uint8_t *p, size_t n)
{
    size_t waiting = c->out_end - c->out_at;
    if (waiting + n > OUTPUT) {
        end(c);
        return;
    }
    if (c->out_room - c->out_end < n) {
        uint8_t *grown = malloc((waiting + n) * 2);
        if (!grown) {
            end(c);
            return;
        }
        if (waiting)
            memcpy(grown, c->out + c->out_at, waiting);
        else
            watch(c, EPOLLIN | EPOLLOUT);
        free(c->out);
        c->out = grown;
        c->out_room = (waiting + n) * 2;
        c->out_at = 0;
        c->out_end = waiting;
    }
    memcpy(c->out + c->out_end, p, n);
    c->out_end += n;
}

static void send_to(struct conn *c, const uint8_t *p, size_t n)
{
    ssize_t sent = 0;
    if (!c->out) {
        sent = send(c->fd, p, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            end(c);
            return;
        }
        sent = sent < 0 ? 0 : sent;
    }
    if ((size_t)sent < n)
        wait_with(c, p + sent, n - (size_t)sent);
}

static void deliver(void)
{
    for (uint32_t i = 0; said_size && i < count; i++)
        if (!subscribers[i]->dead)
            send_to(subscribers[i], said, said_size);
    said_size = 0;
    while (dead) {
        struct conn *c = dead;
        dead = c->next_dead;
        bury(c);
    }
}

static void subscribe(struct conn *c)
{
    if (!c->place) {
        if (count == places) {
            places = places ? places * 2 : 64;
            subscribers = realloc(subscribers, places * sizeof *subscribers);
            if (!subscribers)
                die("realloc");
        }
        subscribers[count++] = c;
        c->place = count;
    }
    send_to(c, (const uint8_t *)"\0\0\0\0", HEADER);
}

/* Keep the n bytes at p, which begin a frame and do not complete it. */
static void keep(struct conn *c, const uint8_t *p, size_t n)
{
    if (n > c->kept_room) {
        free(c->cut);
        c->kept_room = (uint32_t)n;
        c->cut = malloc(n);
        if (!c->cut)
            die("malloc");
    }
    memcpy(c->cut, p, n);
    c->kept = (uint32_t)n;
}

static void say(const uint8_t *p, size_t n)
{
    memcpy(said + said_size, p, n);
    said_size += n;
}

static void on_readable(struct conn *c)
{
    if (c->kept)
        memcpy(scratch, c->cut, c->kept);
    ssize_t got = recv(c->fd, scratch + c->kept, READ, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            end(c);
        return;
    }
    size_t n = c->kept + (size_t)got, at = 0, from = 0; /* what is whole and has not been said begins at from */
    c->kept = 0;
    while (n - at >= HEADER && !c->dead) {
        uint32_t length = be32(scratch + at);
        if (length > MAX_FRAME) {
            end(c); /* the frames before it still go out */
        } else if (!length) {
            say(scratch + from, at - from);
            subscribe(c);
            from = at += HEADER;
        } else if (n - at - HEADER < length) {
            break;
        } else {
            at += HEADER + length;
        }
    }
    say(scratch + from, at - from);
    if (at < n && !c->dead)
        keep(c, scratch + at, n - at);
}

static void on_writable(struct conn *c)
{
    ssize_t sent = send(c->fd, c->out + c->out_at, c->out_end - c->out_at, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            end(c);
        return;
    }
    c->out_at += (size_t)sent;
    if (c->out_at < c->out_end)
        return;
    free(c->out);
    c->out = NULL;
    c->out_at = c->out_end = c->out_room = 0;
    watch(c, EPOLLIN);
}

static void on_acceptable(int listener)
{
    for (int i = 0; i < ACCEPTS; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE))
            die("accept"); /* a listener that stays readable would spin, and the table be wrong */
        if (fd < 0)
            return;
        struct conn *c = calloc(1, sizeof *c);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
        if (!c || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev))
            die("accept");
        c->fd = fd;
    }
}

static int listen_on_any_port(void)
{
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof addr;
    /* Linux hands TCP_NODELAY on to the accepted. */
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) ||
        bind(fd, (struct sockaddr *)&addr, size) || listen(fd, 1024) ||
        getsockname(fd, (struct sockaddr *)&addr, &size))
        die("listen");
    printf("LISTENING tcp 127.0.0.1:%d\n", ntohs(addr.sin_port));
    fflush(stdout);
    return fd;
}

int main(void)
{
    static struct epoll_event events[EVENTS];
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        die("epoll_create1");
    int listener = listen_on_any_port();
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &ev))
        die("epoll_ctl");
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        int accepting = 0;
        for (int i = 0; i < n && said_size < SAID; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                accepting = 1;
                continue;
            }
            if (c->out && events[i].events & EPOLLOUT)
                on_writable(c);
            if (!c->dead && events[i].events & ~(uint32_t)EPOLLOUT)
                on_readable(c);
        }
        deliver();
        if (accepting)
            on_acceptable(listener);
    }
}

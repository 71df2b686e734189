/* The floor of fan-out: what one connection sends, whole frames (u32be length, then the payload), goes to all the
   others; epoll, one thread, nothing but libc.

   What every other server is compared to, so it is written to win: the frames of a turn are kept once, as they came,
   and leave with one send for each member that was silent in it, from where they are; a member has an output of its own
   only while its socket is full.  It does the whole job: lengths are checked, cut frames completed, and a member that
   does not read is cut before it costs more than OUTPUT.

   Never here: topics, acknowledgements, history, logs; a frame that goes out before it is complete.
   Read next: evloop/bench/fanout.c, which drives it.

   usage: epoll_fanout        greets who connects with an empty frame: from then on it is a member;
   prints LISTENING tcp 127.0.0.1:PORT and runs until killed */

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
    OUTPUT = 64 << 20,   /* bytes that wait for a member: NATS' bound */
    EVENTS = 512,
    ACCEPTS = 64         /* a turn */
};

struct member {
    int fd;
    uint32_t place;           /* in members */
    uint8_t dead, spoke;      /* spoke: this turn's frames are in part its own */
    uint32_t kept, kept_room; /* bytes of a cut frame */
    uint8_t *cut;
    uint8_t *out;             /* what the kernel did not take; while it exists EPOLLOUT is armed */
    size_t out_at, out_end, out_room;
};

/* Consecutive frames of one member in said. */
struct part {
    struct member *from;
    size_t at, size;
};

static int epoll_fd;
static struct member **members;
static uint32_t count, places;
static int dying; /* a member is dead: it is forgotten at the turn's end, for its last frames are in said */
static uint8_t scratch[HEADER + MAX_FRAME + READ];
static uint8_t said[SAID + HEADER + MAX_FRAME + READ];
static size_t said_size;
static struct part parts[EVENTS];
static uint32_t part_count;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void end(struct member *m)
{
    m->dead = dying = 1;
}

static void forget(struct member *m)
{
    members[m->place] = members[--count];
    members[m->place]->place = m->place;
    close(m->fd); /* epoll forgets it: no other descriptor refers to the socket */
    free(m->cut);
    free(m->out);
    free(m);
}

static void watch(struct member *m, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = m};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, m->fd, &ev))
        die("epoll_ctl");
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Append to the output that waits for the socket.  A member that it is too much for is dead. */
static void wait_with(struct member *m, const uint8_t *p, size_t n)
{
    size_t waiting = m->out_end - m->out_at;
    if (waiting + n > OUTPUT) {
        end(m);
        return;
    }
    if (m->out_room - m->out_end < n) {
        uint8_t *grown = malloc((waiting + n) * 2);
        if (!grown) {
            end(m);
            return;
        }
        if (waiting)
            memcpy(grown, m->out + m->out_at, waiting);
        else
            watch(m, EPOLLIN | EPOLLOUT);
        free(m->out);
        m->out = grown;
        m->out_room = (waiting + n) * 2;
        m->out_at = 0;
        m->out_end = waiting;
    }
    memcpy(m->out + m->out_end, p, n);
    m->out_end += n;
}

static void send_to(struct member *m, const uint8_t *p, size_t n)
{
    ssize_t sent = 0;
    if (!m->out) {
        sent = send(m->fd, p, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            end(m);
            return;
        }
        sent = sent < 0 ? 0 : sent;
    }
    if ((size_t)sent < n)
        wait_with(m, p + sent, n - (size_t)sent);
}

/* Send a member what the others said: it spoke itself, so that lies in pieces. */
static void send_others(struct member *m)
{
    static uint8_t joined[sizeof said];
    size_t size = 0;
    for (uint32_t i = 0; i < part_count; i++) {
        if (parts[i].from == m)
            continue;
        memcpy(joined + size, said + parts[i].at, parts[i].size);
        size += parts[i].size;
    }
    if (size)
        send_to(m, joined, size);
    m->spoke = 0;
}

static void deliver(void)
{
    for (uint32_t i = 0; said_size && i < count; i++) {
        struct member *m = members[i];
        if (m->dead)
            continue;
        if (m->spoke)
            send_others(m);
        else
            send_to(m, said, said_size);
    }
    for (uint32_t i = count; dying && i-- > 0;) /* from the end: the last takes the place of who is forgotten */
        if (members[i]->dead)
            forget(members[i]);
    said_size = part_count = 0;
    dying = 0;
}

/* Keep the n bytes at p, which begin a frame and do not complete it. */
static void keep(struct member *m, const uint8_t *p, size_t n)
{
    if (n > m->kept_room) {
        free(m->cut);
        m->kept_room = (uint32_t)n;
        m->cut = malloc(n);
        if (!m->cut)
            die("malloc");
    }
    memcpy(m->cut, p, n);
    m->kept = (uint32_t)n;
}

static void on_readable(struct member *m)
{
    if (m->kept)
        memcpy(scratch, m->cut, m->kept);
    ssize_t got = recv(m->fd, scratch + m->kept, READ, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            end(m);
        return;
    }
    size_t n = m->kept + (size_t)got, at = 0;
    m->kept = 0;
    while (n - at >= HEADER) {
        uint32_t length = be32(scratch + at);
        if (length > MAX_FRAME)
            end(m); /* the frames before it still go out */
        if (m->dead || n - at - HEADER < length)
            break;
        at += HEADER + length;
    }
    if (at) {
        memcpy(said + said_size, scratch, at);
        parts[part_count++] = (struct part){m, said_size, at};
        said_size += at;
        m->spoke = 1;
    }
    if (at < n && !m->dead)
        keep(m, scratch + at, n - at);
}

static void on_writable(struct member *m)
{
    ssize_t sent = send(m->fd, m->out + m->out_at, m->out_end - m->out_at, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            end(m);
        return;
    }
    m->out_at += (size_t)sent;
    if (m->out_at < m->out_end)
        return;
    free(m->out);
    m->out = NULL;
    m->out_at = m->out_end = m->out_room = 0;
    watch(m, EPOLLIN);
}

static void on_acceptable(int listener)
{
    for (int i = 0; i < ACCEPTS; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE))
            die("accept"); /* a listener that stays readable would spin, and the table be wrong */
        if (fd < 0)
            return;
        if (count == places) {
            places = places ? places * 2 : 64;
            members = realloc(members, places * sizeof *members);
            if (!members)
                die("realloc");
        }
        struct member *m = calloc(1, sizeof *m);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = m};
        if (!m || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev))
            die("accept");
        m->fd = fd;
        m->place = count;
        members[count++] = m;
        send_to(m, (const uint8_t *)"\0\0\0\0", HEADER);
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
            struct member *m = events[i].data.ptr;
            if (!m) {
                accepting = 1;
                continue;
            }
            if (m->out && events[i].events & EPOLLOUT)
                on_writable(m);
            if (!m->dead && events[i].events & ~(uint32_t)EPOLLOUT)
                on_readable(m);
        }
        deliver();
        if (accepting)
            on_acceptable(listener);
    }
}

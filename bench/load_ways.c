/* What a generator of load could save in the kernel: one closed loop against the floor in C, in several ways, and the
   CPU of both sides.  ADR 0015 decides by it; `make bench-ways` prints it.

   The work is that of `evloop bench load`: 100 connections, each with a window of messages in flight, and the next ones
   leave when replies have come.  Ways take turns at a fresh server, each has a core, the first round is dropped.

   Never here: what a reply has to look like; only its bytes are counted, since what is asked is what the kernel costs.

   usage: load_ways FLOOR [ROUNDS [SECONDS]] */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECTIONS = 100,
    HEADER = 4,
    FRAME = HEADER + 64,
    LARGEST = 256,       /* messages in flight */
    WINDOW = FRAME * LARGEST,
    MOST_ROUNDS = 50,
    ENTRIES = 512,       /* of the ring: more than two operations a connection */
    BUFFERS = 256        /* for replies in the ring: a power of two, above the connections */
};

enum way { LEVEL, EDGE, LATER, LOWAT, RENO, RING, WAYS };
static const char *names[WAYS] = {
    "epoll, level-triggered",  /* as `evloop bench load` */
    "epoll, edge-triggered",   /* epoll does not look again whether a socket that was read has more */
    "all sends after all reads",
    "SO_RCVLOWAT of a window", /* no read before all of a window is there */
    "reno on the load's side", /* whichever the default is */
    "io_uring",
};

static const char *floor_path;
static double seconds = 0.5; /* of a round: a hundred thousand reads on an idle machine */
static int cores[2], fds[CONNECTIONS];
static uint32_t in_flight, window;
static char out[WINDOW], in[1 << 18];
static uint32_t missing[CONNECTIONS]; /* bytes of the replies that a connection waits for */
static uint64_t messages, reads, waits;

struct figures { double load, server, per_wait, per_read, sleeps; }; /* ns a message; sleeps a read */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double read_clock(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t))
        die("clock_gettime");
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void pin(pid_t pid, int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    sched_setaffinity(pid, sizeof set, &set);
}

/* Start a server; return its number, and its port in *port. */
static pid_t start_floor(int *port)
{
    int ends[2];
    char line[100] = "";
    if (pipe(ends))
        die("pipe");
    pid_t pid = fork();
    if (!pid) {
        pin(0, cores[0]);
        dup2(ends[1], 1);
        execl(floor_path, floor_path, (char *)NULL);
        die(floor_path);
    }
    close(ends[1]);
    if (read(ends[0], line, sizeof line - 1) <= 0 || sscanf(line, "LISTENING tcp 127.0.0.1:%d", port) != 1)
        die("the server does not listen");
    close(ends[0]);
    return pid;
}

static void open_connections(enum way way, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, lowest = (int)window;
    for (int i = 0; i < CONNECTIONS; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM, 0);
        if (fds[i] < 0 || connect(fds[i], (void *)&address, sizeof address))
            die("connect");
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (way == LOWAT)
            setsockopt(fds[i], SOL_SOCKET, SO_RCVLOWAT, &lowest, sizeof lowest);
        if (way == RENO && setsockopt(fds[i], IPPROTO_TCP, TCP_CONGESTION, "reno", 4))
            die("TCP_CONGESTION");
    }
}

static void send_messages(int i, size_t size)
{
    missing[i] += (uint32_t)size;
    if (send(fds[i], out, size, MSG_NOSIGNAL) != (ssize_t)size) /* blocking; a window fits the kernel's buffer */
        die("send");
}

/* Count what has come on a connection; return the bytes of the messages that may now be sent. */
static size_t take(int i, ssize_t got)
{
    if (got <= 0 || (size_t)got > missing[i])
        die("recv");
    uint32_t before = (missing[i] + FRAME - 1) / FRAME;
    missing[i] -= (uint32_t)got;
    uint32_t answered = before - (missing[i] + FRAME - 1) / FRAME;
    messages += answered;
    reads++;
    return (size_t)answered * FRAME;
}

/* ---- epoll ---- */

static void run_epoll(enum way way, double until)
{
    struct epoll_event events[CONNECTIONS];
    size_t owed[CONNECTIONS];
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < CONNECTIONS; i++) {
        struct epoll_event event = {.events = way == EDGE ? EPOLLIN | EPOLLET : EPOLLIN, .data.u32 = (uint32_t)i};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[i], &event))
            die("epoll_ctl");
    }
    while (!messages || read_clock(CLOCK_MONOTONIC) < until) {
        int n = epoll_wait(epoll_fd, events, CONNECTIONS, 1000);
        waits++;
        for (int e = 0; e < n; e++) {
            int i = (int)events[e].data.u32;
            owed[e] = take(i, recv(fds[i], in, sizeof in, 0));
            if (way != LATER && owed[e])
                send_messages(i, owed[e]);
        }
        for (int e = 0; way == LATER && e < n; e++)
            if (owed[e])
                send_messages((int)events[e].data.u32, owed[e]);
    }
    close(epoll_fd);
}

/* ---- io_uring: a standing receive a connection, and all that a turn has to send handed over by the call that waits
   for the next turn (io_uring_enter(2)); registered files, replies in buffers that the kernel picks ---- */

static struct {
    int fd;
    char *rings;                       /* both, in one mapping */
    size_t rings_size, sqes_size;
    unsigned *sq_tail, *cq_head, *cq_tail, sq_mask, cq_mask, tail, unsubmitted;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    uint16_t buffer_tail;
} ring = {.fd = -1};

static _Alignas(4096) struct io_uring_buf slots[BUFFERS];
static char replies[BUFFERS][WINDOW];

static int ring_call(unsigned operation, void *argument, unsigned count)
{
    return (int)syscall(SYS_io_uring_register, ring.fd, operation, argument, count);
}

static void give_buffer(unsigned id)
{
    struct io_uring_buf *slot = &slots[ring.buffer_tail++ % BUFFERS];
    slot->addr = (uintptr_t)replies[id];
    slot->len = WINDOW;
    slot->bid = (uint16_t)id;
    __atomic_store_n(&((struct io_uring_buf_ring *)(void *)slots)->tail, ring.buffer_tail, __ATOMIC_RELEASE);
}

static void *mapped(size_t size, off_t offset)
{
    void *found = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, offset);
    if (found == MAP_FAILED)
        die("mmap of a ring");
    return found;
}

/* Return 0, or -1 with errno: not built in, forbidden, or older than Linux 6.1. */
static int make_ring(void)
{
    struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    ring.fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &params);
    if (ring.fd < 0)
        return -1;
    size_t sq = params.sq_off.array + params.sq_entries * sizeof(unsigned);
    size_t cq = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    ring.rings_size = sq > cq ? sq : cq;
    ring.sqes_size = params.sq_entries * sizeof *ring.sqes;
    ring.rings = mapped(ring.rings_size, IORING_OFF_SQ_RING);
    ring.sqes = mapped(ring.sqes_size, IORING_OFF_SQES);
    ring.sq_tail = (void *)(ring.rings + params.sq_off.tail);
    ring.cq_head = (void *)(ring.rings + params.cq_off.head);
    ring.cq_tail = (void *)(ring.rings + params.cq_off.tail);
    ring.cqes = (void *)(ring.rings + params.cq_off.cqes);
    ring.sq_mask = params.sq_entries - 1;
    ring.cq_mask = params.cq_entries - 1;
    for (unsigned i = 0; i < params.sq_entries; i++)
        ((unsigned *)(void *)(ring.rings + params.sq_off.array))[i] = i;
    ring.tail = ring.unsubmitted = ring.buffer_tail = 0;
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)slots, .ring_entries = BUFFERS};
    if (ring_call(IORING_REGISTER_PBUF_RING, &reg, 1) || ring_call(IORING_REGISTER_FILES, fds, CONNECTIONS))
        die("io_uring_register");
    for (unsigned id = 0; id < BUFFERS; id++)
        give_buffer(id);
    return 0;
}

static void unmake_ring(void)
{
    munmap(ring.rings, ring.rings_size);
    munmap(ring.sqes, ring.sqes_size);
    close(ring.fd);
}

static struct io_uring_sqe *ask(int i, uint8_t operation, uint64_t user_data)
{
    struct io_uring_sqe *sqe = &ring.sqes[ring.tail++ & ring.sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = operation;
    sqe->fd = i;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->user_data = user_data;
    ring.unsubmitted++;
    return sqe;
}

static void ask_receive(int i)
{
    struct io_uring_sqe *sqe = ask(i, IORING_OP_RECV, (uint64_t)i);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->ioprio = IORING_RECV_MULTISHOT | IORING_RECVSEND_POLL_FIRST;
}

static void ask_send(int i, size_t size)
{
    struct io_uring_sqe *sqe = ask(i, IORING_OP_SEND, CONNECTIONS);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    sqe->addr = (uintptr_t)out;
    sqe->len = (uint32_t)size;
    sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
    missing[i] += (uint32_t)size;
}

static void run_ring(double until)
{
    for (int i = 0; i < CONNECTIONS; i++)
        ask_receive(i);
    while (!messages || read_clock(CLOCK_MONOTONIC) < until) {
        __atomic_store_n(ring.sq_tail, ring.tail, __ATOMIC_RELEASE);
        if (syscall(SYS_io_uring_enter, ring.fd, ring.unsubmitted, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
            die("io_uring_enter");
        ring.unsubmitted = 0;
        waits++;
        unsigned head = *ring.cq_head, tail = __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE);
        for (; head != tail; head++) {
            struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];
            if (cqe->user_data >= CONNECTIONS)
                errno = -cqe->res, die("send through the ring");
            int i = (int)cqe->user_data;
            if (cqe->res < 0 && cqe->res != -ENOBUFS)
                errno = -cqe->res, die("recv through the ring");
            if (cqe->res > 0) {
                size_t owed = take(i, cqe->res);
                give_buffer(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
                if (owed)
                    ask_send(i, owed);
            }
            if (!(cqe->flags & IORING_CQE_F_MORE))
                ask_receive(i);
        }
        __atomic_store_n(ring.cq_head, head, __ATOMIC_RELEASE);
    }
}

/* ---- the measurement ---- */

static void run(enum way way, clockid_t server_clock, struct figures *found)
{
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    double load = -read_clock(CLOCK_PROCESS_CPUTIME_ID), server = -read_clock(server_clock);
    double until = read_clock(CLOCK_MONOTONIC) + seconds;
    for (int i = 0; i < CONNECTIONS; i++)
        send_messages(i, window);
    if (way == RING)
        run_ring(until);
    else
        run_epoll(way, until);
    load += read_clock(CLOCK_PROCESS_CPUTIME_ID), server += read_clock(server_clock);
    getrusage(RUSAGE_SELF, &after);
    *found = (struct figures){
        .load = load / (double)messages * 1e9,
        .server = server / (double)messages * 1e9,
        .per_read = (double)messages / (double)reads,
        .per_wait = (double)reads / (double)waits,
        .sleeps = (double)(after.ru_nvcsw - before.ru_nvcsw) / (double)reads,
    };
}

/* Measure one way; return -1 with errno if this kernel has it not. */
static int measure(enum way way, struct figures *found)
{
    int port, made = 0;
    clockid_t server_clock;
    pid_t pid = start_floor(&port);
    if (clock_getcpuclockid(pid, &server_clock))
        die("clock_getcpuclockid");
    open_connections(way, port);
    messages = reads = waits = 0;
    memset(missing, 0, sizeof missing);
    if (way == RING)
        made = make_ring();
    if (!made)
        run(way, server_clock, found);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    for (int i = 0; i < CONNECTIONS; i++)
        close(fds[i]);
    if (way == RING && ring.fd >= 0)
        unmake_ring();
    return made;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, compare);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Return the median of one figure over the rounds of a way, divided by those of another one if there is one. */
static double middle(struct figures rows[][WAYS], int rounds, int way, size_t offset, int base)
{
    double values[MOST_ROUNDS];
    for (int r = 0; r < rounds; r++) {
        values[r] = *(double *)(void *)((char *)&rows[r][way] + offset);
        if (base >= 0)
            values[r] /= *(double *)(void *)((char *)&rows[r][base] + offset);
    }
    return median(values, rounds);
}

static void print_way(struct figures rows[][WAYS], int rounds, enum way way)
{
#define FIGURE(field, base) middle(rows, rounds, way, offsetof(struct figures, field), base)
    printf("  %-26s %8.1f %6.2f %8.1f %6.2f %10.1f %10.1f %12.3f\n", names[way], FIGURE(load, -1), FIGURE(load, LEVEL),
           FIGURE(server, -1), FIGURE(server, LEVEL), FIGURE(per_read, -1), FIGURE(per_wait, -1), FIGURE(sleeps, -1));
#undef FIGURE
}

static void print_case(int rounds)
{
    static struct figures rows[MOST_ROUNDS][WAYS];
    int absent[WAYS] = {0}; /* an errno */
    window = in_flight * FRAME;
    for (int r = 0; r <= rounds; r++) /* the first is overwritten by the second */
        for (int w = 0; w < WAYS; w++)
            if (!absent[w] && measure((enum way)w, &rows[r ? r - 1 : 0][w]))
                absent[w] = errno;
    printf("%d connections, %u in flight, %d bytes; ns of CPU a message, times the first way\n", CONNECTIONS, in_flight,
           FRAME - HEADER);
    printf("  %-26s %8s %6s %8s %6s %10s %10s %12s\n", "", "load", "times", "server", "times", "msgs/read",
           "reads/wait", "sleeps/read");
    for (int w = 0; w < WAYS; w++)
        if (absent[w])
            printf("  %-26s not on this machine: %s\n", names[w], strerror(absent[w]));
        else
            print_way(rows, rounds, (enum way)w);
}

int main(int argc, char **argv)
{
    static const uint32_t cases[] = {16, 256};
    int rounds = argc > 2 ? atoi(argv[2]) : 5, count = 0;
    cpu_set_t set;
    if (argc < 2 || rounds < 1 || rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: load_ways FLOOR [ROUNDS [SECONDS]]      1..%d rounds\n", MOST_ROUNDS);
        return 2;
    }
    floor_path = argv[1];
    if (argc > 3)
        seconds = atof(argv[3]);
    sched_getaffinity(0, sizeof set, &set);
    for (int core = 0; core < CPU_SETSIZE && count < 2; core++)
        if (CPU_ISSET(core, &set))
            cores[count++] = core;
    if (count == 1)
        cores[1] = cores[0];
    pin(0, cores[1]);
    for (size_t at = 0; at < sizeof out; at += FRAME)
        memcpy(out + at, &(uint32_t){htonl(FRAME - HEADER)}, HEADER);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        in_flight = cases[i];
        print_case(rounds);
    }
    return 0;
}

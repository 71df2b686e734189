/* What output costs, in the three places where ADR 0007 decides: a system call through a table of pointers, many small
   answers gathered by a copy or by writev, one large payload copied, referenced, or sent with its header put in front of
   it.  And the same for what is received: header and body apart, or in one piece.  TCP on the loopback, within one
   process, read back at once; CPU time, the best of 15 rounds each.  `make bench-output` prints it. */

#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 15, HEADER = 4, SMALL = 64, MOST = 256, LARGEST = 1 << 18 };

static int ours, theirs;
static char in[1 << 20], out[LARGEST + HEADER];
static char headers[MOST][HEADER], payloads[MOST][SMALL];
static struct iovec parts[2 * MOST];
static ssize_t (*volatile table_recv)(int, void *, size_t, int) = recv; /* volatile: looked up in each call */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void take(ssize_t size)
{
    while (size > 0)
        size -= recv(theirs, in, sizeof in, 0);
}

static void recv_direct(int n) { (void)n, recv(ours, in, 4096, MSG_DONTWAIT); }
static void recv_table(int n) { (void)n, table_recv(ours, in, 4096, MSG_DONTWAIT); }
static void small_writev(int n) { take(writev(ours, parts, 2 * n)); }

static void small_copy(int n)
{
    char *at = out;
    for (int i = 0; i < n; i++) {
        memcpy(at, headers[i], HEADER);
        memcpy(at + HEADER, payloads[i], SMALL);
        at += HEADER + SMALL;
    }
    take(send(ours, out, (size_t)(at - out), 0));
}

static char *large;

static void large_reference(int n)
{
    struct iovec two[2] = {{headers[0], HEADER}, {large, (size_t)n}};
    struct msghdr message = {.msg_iov = two, .msg_iovlen = 2};
    take(sendmsg(ours, &message, 0));
}

static void large_joined(int n)
{
    char kept[HEADER];
    memcpy(kept, large - HEADER, HEADER);
    memcpy(large - HEADER, headers[0], HEADER);
    ssize_t sent = send(ours, large - HEADER, (size_t)n + HEADER, 0);
    memcpy(large - HEADER, kept, HEADER);
    take(sent);
}

static void receive(int n, struct iovec *pieces, int count)
{
    ssize_t left = send(theirs, out, (size_t)n + HEADER, 0);
    while (left > 0) {
        ssize_t size = count == 1 ? recv(ours, pieces->iov_base, pieces->iov_len, 0) : readv(ours, pieces, count);
        left -= size;
    }
}

static void receive_apart(int n)
{
    receive(n, (struct iovec[]){{headers[1], HEADER}, {large, (size_t)n}, {in, sizeof in}}, 3);
}

static void receive_joined(int n)
{
    receive(n, &(struct iovec){large - HEADER, (size_t)n + HEADER}, 1);
}

static void large_copy(int n)
{
    memcpy(out, headers[0], HEADER);
    memcpy(out + HEADER, large, (size_t)n);
    take(send(ours, out, (size_t)n + HEADER, 0));
}

static double best(void (*what)(int), int n, int count)
{
    double least = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = now();
        for (int i = 0; i < count; i++)
            what(n);
        double each = (now() - begin) / count;
        if (each < least)
            least = each;
    }
    return least;
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (bind(listener, (void *)&address, size) || listen(listener, 1) ||
        getsockname(listener, (void *)&address, &size))
        return perror("listen"), 1;
    ours = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(ours, (void *)&address, size) || (theirs = accept(listener, NULL, NULL)) < 0)
        return perror("connect"), 1;
    setsockopt(ours, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (int i = 0; i < MOST; i++) {
        parts[2 * i] = (struct iovec){headers[i], HEADER};
        parts[2 * i + 1] = (struct iovec){payloads[i], SMALL};
    }
    large = (char *)calloc(1, LARGEST + 32) + 32; /* where a bytes object has its data, after malloc's 16 */
    printf("recv with nothing there: direct %.1f ns, through the table %.1f ns\n", best(recv_direct, 0, 20000),
           best(recv_table, 0, 20000));
    for (int n = 1; n <= MOST; n *= 4)
        printf("%4d answers of %d B: writev %6.2f us, copy and send %6.2f us\n", n, SMALL,
               best(small_writev, n, 2000) / 1e3, best(small_copy, n, 2000) / 1e3);
    for (int n = 1024; n <= LARGEST; n *= 2)
        printf("payload of %6d B: sendmsg by reference %6.2f us, header in front %6.2f us, copy and send %6.2f us; "
               "received by readv %6.2f us, in one piece %6.2f us\n", n,
               best(large_reference, n, 300) / 1e3, best(large_joined, n, 300) / 1e3, best(large_copy, n, 300) / 1e3,
               best(receive_apart, n, 300) / 1e3, best(receive_joined, n, 300) / 1e3);
    return 0;
}

/* The system calls of a reactor, as a table: libc by default; a simulated kernel or a fault injector brings its own.
   One table a reactor and not one a process, so that a simulated kernel and a witness can live side by side.
   Results and errno are libc's.  Plain C, no Python. */

#ifndef EVLOOP_SYSCALLS_H
#define EVLOOP_SYSCALLS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EVL_SYSCALLS_CAPSULE "evloop.syscalls"

typedef struct evl_syscalls {
    int (*epoll_create1)(int flags);
    int (*epoll_ctl)(int epfd, int op, int fd, struct epoll_event *event);
    int (*epoll_wait)(int epfd, struct epoll_event *events, int capacity, int milliseconds);
    int (*epoll_pwait2)(int epfd, struct epoll_event *events, int capacity, const struct timespec *timeout,
                        const sigset_t *mask);
    int (*eventfd)(unsigned int value, int flags);
    ssize_t (*recv)(int fd, void *data, size_t size, int flags);
    ssize_t (*send)(int fd, const void *data, size_t size, int flags);
    ssize_t (*sendmsg)(int fd, const struct msghdr *message, int flags);
    ssize_t (*readv)(int fd, const struct iovec *parts, int count);
    ssize_t (*writev)(int fd, const struct iovec *parts, int count);
    int (*accept4)(int fd, struct sockaddr *address, socklen_t *size, int flags);
    int (*shutdown)(int fd, int how);
    int (*setsockopt)(int fd, int level, int option, const void *value, socklen_t size);
    int (*getsockopt)(int fd, int level, int option, void *value, socklen_t *size);
    int (*close)(int fd);
    ssize_t (*read)(int fd, void *data, size_t size);
    ssize_t (*write)(int fd, const void *data, size_t size);
    int (*clock_gettime)(clockid_t clock, struct timespec *time);
} evl_syscalls;

/* By number: glibc has a wrapper since 2.35 only, and a binary must run with an older one.  441 on every architecture
   (it is newer than the common numbering).  A kernel before 5.11 answers ENOSYS. */
#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

static int evl_epoll_pwait2(int epfd, struct epoll_event *events, int capacity, const struct timespec *timeout,
                            const sigset_t *mask) {
    /* The kernel's struct has 64-bit seconds on every architecture. */
    struct { int64_t seconds, nanoseconds; } wide;
    if (timeout) wide.seconds = timeout->tv_sec, wide.nanoseconds = timeout->tv_nsec;
    return (int)syscall(SYS_epoll_pwait2, epfd, events, capacity, timeout ? &wide : NULL, mask, _NSIG / 8);
}

/* glibc declares accept4 with a transparent union, hence a function of our own. */
static int evl_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags) {
    return accept4(fd, address, size, flags);
}

__attribute__((unused)) static evl_syscalls evl_libc = {
    epoll_create1, epoll_ctl, epoll_wait, evl_epoll_pwait2, eventfd, recv,     send, sendmsg, readv,
    writev,        evl_accept4, shutdown, setsockopt,       getsockopt, close, read, write,   clock_gettime,
};

#endif

/* What the fan-out generator sends, and when: a window of broadcasts for each publisher, or a plan.

   Never here: what comes back.  fanout.c includes this file once, behind its connections. */

static void publish_one(struct publisher *p, uint64_t stamp)
{
    static const char hex[] = "0123456789abcdef";
    uint64_t k = p->sent, at = k & (ring - 1), number = (uint64_t)p->peer->id << 56 | k;
    char *digits = p->digits + at * 16;
    for (int i = 15; i >= 0; i--, number >>= 4)
        digits[i] = hex[number & 15];
    p->stamp[at] = stamp;
    p->left[at] = recipients;
    memcpy(publish.data + publish_digits[0], digits, 16);
    if (publish_digits[1])
        memcpy(publish.data + publish_digits[1], digits, 16);
    append(p->peer, publish.data, publish.size);
    p->sent++;
}

static void publish_closed(void)
{
    for (uint32_t i = 0; i < opt.publishers; i++) {
        struct publisher *p = &publishers[i];
        if (p->sent - p->complete >= opt.outstanding)
            continue;
        for (uint64_t stamp = now(); p->sent - p->complete < opt.outstanding;)
            publish_one(p, stamp);
        flush(p->peer);
    }
}

/* Publish what is due; what a full socket holds back keeps its planned time. */
static void publish_planned(void)
{
    uint64_t at = now();
    uint64_t due = at < plan_start ? 0 : (uint64_t)((double)(at - plan_start) / 1e9 * opt.rate) + 1;
    for (; planned < due; planned++) {
        struct publisher *p = &publishers[planned % opt.publishers];
        if (p->sent - p->complete >= ring || p->peer->out_end - p->peer->out_at > HELD)
            break;
        uint64_t stamp = plan_start + (uint64_t)((double)planned / opt.rate * 1e9);
        evb_hist_record(&lags, at > stamp ? at - stamp : 0, 1);
        publish_one(p, stamp);
    }
    for (uint32_t i = 0; i < opt.publishers; i++)
        flush(publishers[i].peer);
}

static void start_plan(void)
{
    uint64_t every = (uint64_t)(1e9 / opt.rate);
    struct itimerspec when = {.it_value.tv_nsec = 1, .it_interval = {(time_t)(every / 1000000000), every % 1000000000}};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    plan_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (plan_fd < 0 || timerfd_settime(plan_fd, 0, &when, NULL) || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, plan_fd, &ev))
        quit(FAILED, "timerfd: %s", strerror(errno));
    plan_start = now();
}

static void publish_more(void)
{
    if (opt.rate > 0)
        publish_planned();
    else
        publish_closed();
}

/* What the fan-out generator tells of an interval: its figures as one line of JSON, and what /proc says of the server.

   Never here: deciding what counts.  fanout.c includes this file once, behind its counters. */

#define BOUND 0.9 /* of its core: above it the generator was the bottleneck, and says so */

/* What /proc tells of the server: context switches of all its threads, resident memory. */
struct facts {
    uint64_t voluntary, involuntary, resident, peak; /* switches; KiB */
};

static void read_status(const char *path, struct facts *facts)
{
    char line[200];
    unsigned long long value;
    FILE *file = fopen(path, "re");
    if (!file)
        return; /* a thread that has ended; the switches of its life are lost */
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "voluntary_ctxt_switches: %llu", &value) == 1)
            facts->voluntary += value;
        else if (sscanf(line, "nonvoluntary_ctxt_switches: %llu", &value) == 1)
            facts->involuntary += value;
        else if (sscanf(line, "VmRSS: %llu", &value) == 1)
            facts->resident = value;
        else if (sscanf(line, "VmHWM: %llu", &value) == 1)
            facts->peak = value;
    }
    fclose(file);
}

static struct facts facts_of_server(void)
{
    struct facts facts = {0};
    char path[300];
    snprintf(path, sizeof path, "/proc/%d/task", (int)opt.server);
    DIR *threads = opt.server ? opendir(path) : NULL;
    for (struct dirent *entry; threads && (entry = readdir(threads));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/status", (int)opt.server, entry->d_name);
        read_status(path, &facts);
    }
    if (threads)
        closedir(threads);
    return facts;
}

static void print_latency(const char *name, const evb_histogram *h)
{
    static const struct {
        const char *name;
        double share;
    } points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999}};
    printf("\"%s\": {\"min\": %llu, \"mean\": %.1f, ", name, (unsigned long long)h->least, h->sum / (double)h->count);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        printf("\"%s\": %llu, ", points[i].name, (unsigned long long)evb_hist_percentile(h, points[i].share));
    printf("\"max\": %llu}, ", (unsigned long long)h->most);
}

/* Latencies by share, each step a half of what is left: straight on an axis of 1 / (1 - share). */
static void print_curve(const evb_histogram *h)
{
    double left = 1;
    printf("\"curve\": [");
    for (; left * (double)h->count >= 1; left /= 2)
        printf("[%.9g, %llu], ", 1 - left, (unsigned long long)evb_hist_percentile(h, 1 - left));
    printf("[1, %llu]], ", (unsigned long long)h->most);
}

/* What one interval took, from the clocks and from /proc. */
struct cost {
    double seconds, server_cpu, load_cpu;
    uint64_t voluntary, involuntary, resident, peak, unsent;
};

/* A round as evloop/bench/schema.json has it, with what only a fan-out has beside it. */
static void report(const struct cost *cost)
{
    uint64_t count = deliveries.count;
    printf("{\"messages\": %llu, \"broadcasts\": %llu, \"seconds\": %.6f, \"rate\": %.1f, \"bytes\": %llu, ",
           (unsigned long long)count, (unsigned long long)completions.count, cost->seconds,
           (double)count / cost->seconds, (unsigned long long)(count * opt.size));
    printf("\"wire_bytes_per_message\": %.2f, \"messages_per_read\": %.2f, \"lost\": 0, \"doubled\": 0, "
           "\"reordered\": 0, \"clock\": \"%s\", ", received ? (double)wire_bytes / (double)received : 0.0,
           reads ? (double)received / (double)reads : 0.0, opt.rate > 0 ? "plan" : "send");
    print_latency("latency_ns", &deliveries);
    print_latency("completion_ns", &completions);
    print_curve(&deliveries);
    if (opt.server)
        printf("\"server\": {\"cpu_s\": %.6f, \"us_per_message\": %.4f, \"busy\": %.4f, \"rss_bytes\": %llu, "
               "\"rss_peak_bytes\": %llu, \"voluntary_switches\": %llu, \"involuntary_switches\": %llu}, ",
               cost->server_cpu, cost->server_cpu * 1e6 / (double)count, cost->server_cpu / cost->seconds,
               (unsigned long long)cost->resident << 10, (unsigned long long)cost->peak << 10,
               (unsigned long long)cost->voluntary, (unsigned long long)cost->involuntary);
    printf("\"client\": {\"us_per_message\": %.4f, \"busy\": %.4f, \"lag_p99_ns\": %llu, \"unsent\": %llu, "
           "\"client_bound\": %s}}\n", cost->load_cpu * 1e6 / (double)count, cost->load_cpu / cost->seconds,
           opt.rate > 0 ? (unsigned long long)evb_hist_percentile(&lags, 0.99) : 0ull, (unsigned long long)cost->unsent,
           cost->load_cpu / cost->seconds > BOUND ? "true" : "false");
}

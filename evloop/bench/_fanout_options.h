/* The fan-out generator's command line.

   Never here: anything but reading it.  fanout.c includes this file once, behind opt and the protocols. */

static void usage(const char *problem) __attribute__((noreturn));

static void usage(const char *problem)
{
    fprintf(stderr, "fanout: %s\n"
        "usage: fanout [options] PROTOCOL IPV4:PORT        PROTOCOL: frames, resp, nats, mqtt, ws, chat\n"
        "  -n N   subscribers (1..100000; 1)       -P N   publishers (1..255; 1)\n"
        "  -o N   broadcasts that each publisher keeps outstanding (1..65536; 1)\n"
        "  -R N   open loop: broadcasts a second, all publishers together (0.1..1000000), instead of -o\n"
        "  -s N   payload bytes (16..65536; 100)   -d S   seconds (2)\n"
        "  -w S, --warmup S      seconds before that, not counted (0.5)\n"
        "  -t S, --timeout S     seconds without a byte before giving up, exit 4 (10)\n"
        "  -p PID, --server PID  read the CPU clock, the memory and the context switches of that process\n", problem);
    exit(USAGE);
}

static double number(const char *text, double least, double most, int whole)
{
    char *end, problem[200];
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most) || (whole && value != (double)(int64_t)value)) {
        snprintf(problem, sizeof problem, "%.40s is not %s of %g..%g", text, whole ? "an integer" : "a number", least,
                 most);
        usage(problem);
    }
    return value;
}

static void parse_address(char *text)
{
    char *colon = strrchr(text, ':');
    if (!colon)
        usage("an address is IPV4:PORT, such as 127.0.0.1:9000");
    opt.address.sin_family = AF_INET;
    opt.address.sin_port = htons((uint16_t)number(colon + 1, 1, 65535, 1));
    *colon = 0;
    if (inet_pton(AF_INET, text, &opt.address.sin_addr) != 1)
        usage("an address is IPV4:PORT, such as 127.0.0.1:9000");
}

static void parse(int argc, char **argv)
{
    static const struct option names[] = {
        {"rate", 1, 0, 'R'}, {"warmup", 1, 0, 'w'}, {"timeout", 1, 0, 't'}, {"server", 1, 0, 'p'}, {0}};
    int key;
    opterr = 0;
    while ((key = getopt_long(argc, argv, "n:P:o:R:s:d:w:t:p:", names, NULL)) != -1)
        switch (key) {
        case 'n': opt.subscribers = (uint32_t)number(optarg, 1, 100000, 1); break;
        case 'P': opt.publishers = (uint32_t)number(optarg, 1, 255, 1); break;
        case 'o': opt.outstanding = (uint32_t)number(optarg, 1, 65536, 1); break;
        case 'R': opt.rate = number(optarg, 0.1, 1e6, 0); break;
        case 's': opt.size = (uint32_t)number(optarg, DIGITS, 65536, 1); break;
        case 'd': opt.seconds = number(optarg, 0.001, 86400, 0); break;
        case 'w': opt.warmup = number(optarg, 0, 3600, 0); break;
        case 't': opt.timeout = number(optarg, 0.001, 3600, 0); break;
        case 'p': opt.server = (pid_t)number(optarg, 1, 1 << 22, 1); break;
        default: usage("unknown option, or its value is missing");
        }
    if (optind != argc - 2)
        usage("give a protocol and an address");
    for (size_t i = 0; i < sizeof wires / sizeof *wires; i++)
        if (!strcmp(argv[optind], wires[i].name))
            wire = &wires[i];
    if (!wire)
        usage("no such protocol");
    parse_address(argv[optind + 1]);
}

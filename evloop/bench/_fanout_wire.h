/* What the fan-out generator says to each kind of server, and what it must hear: handshakes, one message to publish,
   one message as a subscriber gets it, and the little that a server may say in between.

   A payload is the same for all: 16 hexadecimal digits, two for the publisher and fourteen for the message's number,
   then a filler of small letters, so that it may stand in JSON too.  With every server but the chat server a delivered
   message differs from the next one in these digits alone: a record is compared, not parsed.

   Never here: sockets, clocks, counting.  fanout.c includes this file once, behind struct peer. */

enum { DIGITS = 16, LONGEST = 1 << 20 /* of anything between two messages */ };

/* Bytes that are put together once, before the run. */
struct text {
    uint8_t *data;
    size_t size, room;
};

static struct text publish, record; /* a message from a publisher, and as a subscriber gets it */
static size_t publish_digits[2];    /* where the digits stand in publish; the second is 0 if they stand there once */
static size_t record_digits;

static void put(struct text *t, const void *data, size_t size)
{
    if (t->room - t->size < size) {
        t->room = (t->size + size) * 2;
        t->data = realloc(t->data, t->room);
        if (!t->data)
            quit(FAILED, "no memory for %zu bytes", t->room);
    }
    memcpy(t->data + t->size, data, size);
    t->size += size;
}

static void putf(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void putf(struct text *t, const char *format, ...)
{
    char line[512]; /* every caller's is shorter */
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put(t, line, (size_t)size);
}

/* Append a payload; return where its digits stand. */
static size_t put_payload(struct text *t)
{
    uint32_t seed = 0x9e3779b9u;
    size_t at = t->size;
    put(t, "0000000000000000", DIGITS);
    for (uint32_t i = DIGITS; i < opt.size; i++) { /* xorshift: no period that a misplaced copy could hide in */
        seed ^= seed << 13, seed ^= seed >> 17, seed ^= seed << 5;
        uint8_t letter = (uint8_t)('a' + (seed >> 8) % 26);
        put(t, &letter, 1);
    }
    return at;
}

static void put_be32(struct text *t, size_t value)
{
    uint32_t big = htonl((uint32_t)value);
    put(t, &big, sizeof big);
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int begins(const uint8_t *p, size_t n, const char *what)
{
    size_t size = strlen(what);
    return n >= size && !memcmp(p, what, size);
}

/* Return the size of the line at p, its end included; 0 if its end has not come. */
static size_t line_size(const uint8_t *p, size_t n)
{
    const uint8_t *end = memchr(p, '\n', n);
    return end ? (size_t)(end - p) + 1 : 0;
}

/* ---- what every protocol has: the bytes at p are none that it knows ---- */

static void wrong_bytes(const struct peer *c, const uint8_t *p, size_t n) __attribute__((noreturn));

static void wrong_bytes(const struct peer *c, const uint8_t *p, size_t n)
{
    char shown[61];
    size_t size = n < sizeof shown - 1 ? n : sizeof shown - 1;
    for (size_t i = 0; i < size; i++)
        shown[i] = p[i] >= ' ' && p[i] < 127 ? (char)p[i] : '.';
    shown[size] = 0;
    quit(WRONG, "%s: %s where a message was expected: %s", name_of(c), n > size ? "other bytes" : "bytes", shown);
}

static void refused(const struct peer *c, const uint8_t *p, size_t n) __attribute__((noreturn));

static void refused(const struct peer *c, const uint8_t *p, size_t n)
{
    quit(REFUSED, "%s: the server says %.*s", name_of(c), (int)(n < 200 ? n : 200), (const char *)p);
}

/* An answer that is known byte for byte; return its size, 0 if it has not come in full. */
static size_t exactly(struct peer *c, const uint8_t *p, size_t n, const void *wanted, size_t size)
{
    if (memcmp(p, wanted, n < size ? n : size))
        refused(c, p, n);
    c->answered = n >= size;
    return c->answered ? size : 0;
}

/* ---- frames: u32be length and payload; an empty one subscribes, and is answered with an empty one; all others go to
   all subscribers ---- */

static void frames_make(void)
{
    put_be32(&publish, opt.size);
    publish_digits[0] = put_payload(&publish);
    put(&record, publish.data, publish.size);
    record_digits = publish_digits[0];
}

static void frames_ask(struct peer *c, struct text *out)
{
    (void)c;
    put(out, "\0\0\0\0", 4);
}

static size_t frames_answer(struct peer *c, const uint8_t *p, size_t n)
{
    return exactly(c, p, n, "\0\0\0\0", 4);
}

static size_t nothing_else(struct peer *c, const uint8_t *p, size_t n)
{
    wrong_bytes(c, p, n);
}

/* ---- RESP2, redis: https://redis.io/docs/latest/develop/reference/protocol-spec/ ---- */

static void resp_make(void)
{
    putf(&publish, "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%u\r\n", strlen(TOPIC), TOPIC, opt.size);
    publish_digits[0] = put_payload(&publish);
    putf(&publish, "\r\n");
    putf(&record, "*3\r\n$7\r\nmessage\r\n$%zu\r\n%s\r\n$%u\r\n", strlen(TOPIC), TOPIC, opt.size);
    record_digits = put_payload(&record);
    putf(&record, "\r\n");
}

static void resp_ask(struct peer *c, struct text *out)
{
    if (c->publisher)
        putf(out, "*1\r\n$4\r\nPING\r\n");
    else
        putf(out, "*2\r\n$9\r\nSUBSCRIBE\r\n$%zu\r\n%s\r\n", strlen(TOPIC), TOPIC);
}

static size_t resp_answer(struct peer *c, const uint8_t *p, size_t n)
{
    char wanted[100];
    int size = c->publisher ? snprintf(wanted, sizeof wanted, "+PONG\r\n")
                            : snprintf(wanted, sizeof wanted, "*3\r\n$9\r\nsubscribe\r\n$%zu\r\n%s\r\n:1\r\n",
                                       strlen(TOPIC), TOPIC);
    return exactly(c, p, n, wanted, (size_t)size);
}

/* PUBLISH is answered with the number of those it went to. */
static size_t resp_else(struct peer *c, const uint8_t *p, size_t n)
{
    size_t size = line_size(p, n);
    if (!c->publisher || (*p != ':' && *p != '-'))
        wrong_bytes(c, p, n);
    if (!size)
        return 0;
    if (*p == '-')
        refused(c, p, size - 2);
    if (strtoul((const char *)p + 1, NULL, 10) != opt.subscribers)
        quit(WRONG, "%s: a message went to %lu of %u subscribers", name_of(c), strtoul((const char *)p + 1, NULL, 10),
             opt.subscribers);
    c->acknowledged++;
    return size;
}

/* ---- NATS: https://docs.nats.io/reference/reference-protocols/nats-protocol ---- */

static void nats_make(void)
{
    putf(&publish, "PUB %s %u\r\n", TOPIC, opt.size);
    publish_digits[0] = put_payload(&publish);
    putf(&publish, "\r\n");
    putf(&record, "MSG %s 1 %u\r\n", TOPIC, opt.size);
    record_digits = put_payload(&record);
    putf(&record, "\r\n");
}

static void nats_ask(struct peer *c, struct text *out)
{
    if (c->step == 1) /* after INFO, which the server sends by itself */
        putf(out, "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":0}\r\n");
    if (c->step == 1 && !c->publisher)
        putf(out, "SUB %s 1\r\n", TOPIC);
    if (c->step == 1)
        putf(out, "PING\r\n"); /* its answer says that what went before it holds */
}

/* The server pings each connection soon after its start, and each two minutes. */
static size_t nats_else(struct peer *c, const uint8_t *p, size_t n)
{
    size_t size = line_size(p, n);
    if (!size && n < LONGEST)
        return 0;
    if (begins(p, n, "-ERR"))
        refused(c, p, size - 2);
    if (begins(p, n, "PING\r\n"))
        answer(c, "PONG\r\n", 6);
    else if (!begins(p, n, "INFO "))
        wrong_bytes(c, p, n);
    return size;
}

static size_t nats_answer(struct peer *c, const uint8_t *p, size_t n)
{
    size_t size = line_size(p, n);
    c->answered = size && begins(p, n, c->step ? "PONG\r\n" : "INFO ");
    return c->answered ? size : nats_else(c, p, n);
}

/* ---- MQTT 3.1.1, QoS 0: https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/ ---- */

static void mqtt_make(void)
{
    size_t rest = 2 + strlen(TOPIC) + opt.size;
    putf(&publish, "%c", 0x30);
    do {
        uint8_t seven = (uint8_t)(rest & 127) | (rest > 127 ? 128 : 0);
        put(&publish, &seven, 1);
        rest >>= 7;
    } while (rest);
    put(&publish, "\0", 1);
    putf(&publish, "%c%s", (int)strlen(TOPIC), TOPIC);
    publish_digits[0] = put_payload(&publish);
    put(&record, publish.data, publish.size);
    record_digits = publish_digits[0];
}

static void mqtt_ask(struct peer *c, struct text *out)
{
    char id[24];
    int size = snprintf(id, sizeof id, "%c%u", c->publisher ? 'p' : 's', c->id); /* who takes another's name ends it */
    if (c->step == 0) { /* clean session, no keep-alive */
        put(out, "\x10", 1);
        putf(out, "%c", 12 + size);
        put(out, "\0\4MQTT\4\2\0\0\0", 11);
        putf(out, "%c%s", size, id);
    } else if (!c->publisher) {
        put(out, "\x82", 1);
        putf(out, "%c", (int)(5 + strlen(TOPIC)));
        put(out, "\0\1\0", 3);
        putf(out, "%c%s", (int)strlen(TOPIC), TOPIC);
        put(out, "\0", 1);
    } else {
        put(out, "\xc0\0", 2); /* PINGREQ: a publisher has nothing to subscribe to */
    }
}

static size_t mqtt_answer(struct peer *c, const uint8_t *p, size_t n)
{
    if (c->step == 0)
        return exactly(c, p, n, "\x20\2\0\0", 4);
    return c->publisher ? exactly(c, p, n, "\xd0\0", 2) : exactly(c, p, n, "\x90\3\0\1\0", 5);
}

/* ---- WebSocket, RFC 6455: binary messages; paths /subscribe and /publish; greeted with an empty message.
   The key that masks a client's bytes is zero: the server has the same work, the template stays constant ---- */

static void ws_head(struct text *t, size_t size, int mask)
{
    put(t, "\x82", 1);
    if (size < 126)
        putf(t, "%c", (int)size | mask);
    else if (size < 65536)
        putf(t, "%c%c%c", 126 | mask, (int)(size >> 8), (int)(size & 255));
    else {
        putf(t, "%c", 127 | mask);
        put_be32(t, 0);
        put_be32(t, size);
    }
    if (mask)
        put(t, "\0\0\0\0", 4);
}

static void ws_make(void)
{
    ws_head(&publish, opt.size, 128);
    publish_digits[0] = put_payload(&publish);
    ws_head(&record, opt.size, 0);
    record_digits = put_payload(&record);
}

static void ws_ask(struct peer *c, struct text *out)
{
    if (c->step == 0)
        putf(out, "GET /%s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
             c->publisher ? "publish" : "subscribe");
}

static size_t ws_answer(struct peer *c, const uint8_t *p, size_t n)
{
    if (c->step)
        return exactly(c, p, n, "\x82\0", 2);
    const uint8_t *end = memmem(p, n, "\r\n\r\n", 4);
    if (end && !begins(p, n, "HTTP/1.1 101 "))
        refused(c, p, line_size(p, n) - 2);
    c->answered = end != NULL;
    return end ? (size_t)(end - p) + 4 : 0;
}

/* ---- evloop-chat/1: JSON in frames, docs/chat-protocol.md; all are members of one room ---- */

static void put_frame(struct text *t, const struct text *payload)
{
    put_be32(t, payload->size);
    put(t, payload->data, payload->size);
}

static void chat_make(void)
{
    struct text say = {0};
    putf(&say, "{\"t\":\"say\",\"ref\":1,\"room\":\"%s\",\"cid\":\"", TOPIC);
    publish_digits[1] = 4 + say.size;
    putf(&say, "0000000000000000\",\"body\":\"");
    publish_digits[0] = 4 + put_payload(&say);
    putf(&say, "\"}");
    put_frame(&publish, &say);
    free(say.data);
    /* The filler and what must stand around a body. */
    putf(&record, "\"body\":\"");
    record_digits = put_payload(&record);
    putf(&record, "\"");
}

static void chat_ask(struct peer *c, struct text *out)
{
    struct text ask = {0};
    if (c->step == 0)
        putf(&ask, "{\"t\":\"hello\",\"v\":1,\"client\":\"evloop-bench\",\"nick\":\"%c%u-%d\",\"ref\":1}",
             c->publisher ? 'p' : 's', c->id, (int)getpid()); /* those of a run that failed are held for a while */
    else
        putf(&ask, "{\"t\":\"join\",\"room\":\"%s\",\"limit\":0,\"ref\":2}", TOPIC);
    put_frame(out, &ask);
    free(ask.data);
}

/* Return the first place of *what* in a message, looking first where it stood in the last one. */
static const uint8_t *find(const uint8_t *p, size_t n, const char *what, size_t size, size_t *last)
{
    if (*last + size <= n && !memcmp(p + *last, what, size))
        return p + *last;
    const uint8_t *found = memmem(p, n, what, size);
    if (found)
        *last = (size_t)(found - p);
    return found;
}

/* A message carries its body, the sender's cid, which repeats the digits, and the room's next number. */
static void chat_message(struct peer *c, const uint8_t *p, size_t n)
{
    static size_t body_at, cid_at, seq_at;
    const uint8_t *body = find(p, n, "\"body\":\"", 8, &body_at), *cid = find(p, n, "\"cid\":\"", 7, &cid_at);
    const uint8_t *seq = find(p, n, "\"seq\":", 6, &seq_at);
    if (!body || !cid || !seq || (size_t)(p + n - body) < record.size || p + n - cid < 7 + DIGITS)
        wrong_bytes(c, p, n);
    uint64_t number = 0;
    for (seq += 6; *seq >= '0' && *seq <= '9'; seq++) /* the frame's closing brace ends it */
        number = number * 10 + (uint64_t)(*seq - '0');
    size_t filler = record_digits + DIGITS;
    if (memcmp(body + filler, record.data + filler, record.size - filler) || memcmp(body + 8, cid + 7, DIGITS))
        wrong_bytes(c, p, n);
    /* A publisher has an `ok` in the place of his own. */
    if (!c->publisher && c->seq && number != c->seq + 1)
        quit(WRONG, "%s: seq %llu behind seq %llu", name_of(c), (unsigned long long)number, (unsigned long long)c->seq);
    c->seq = number;
    message(c, body + record_digits);
}

static size_t chat_item(struct peer *c, const uint8_t *p, size_t n)
{
    if (n < 4)
        return 0;
    size_t size = be32(p);
    if (size > LONGEST)
        wrong_bytes(c, p, n);
    if (n - 4 < size)
        return 0;
    const uint8_t *text = p + 4;
    if (begins(text, size, "{\"t\":\"msg\"")) {
        chat_message(c, text, size);
    } else if (begins(text, size, "{\"t\":\"ping\"")) {
        struct text pong = {0};
        put(&pong, p, 4 + size);
        pong.data[4 + 7] = 'o';
        answer(c, pong.data, pong.size);
        free(pong.data);
    } else if (begins(text, size, "{\"t\":\"err\"") || (begins(text, size, "{\"t\":\"bye\"") && !leaving)) {
        refused(c, text, size);
    } else if (begins(text, size, "{\"t\":\"ok\"")) {
        c->acknowledged++;
    } else if (size && !begins(text, size, "{\"t\":\"ev\"") && !begins(text, size, "{\"t\":\"bye\"") &&
               !begins(text, size, "{\"t\":\"note\"")) {
        wrong_bytes(c, text, size);
    }
    return 4 + size;
}

/* Others' comings may stand before the answer. */
static size_t chat_answer(struct peer *c, const uint8_t *p, size_t n)
{
    if (n < 4 || n - 4 < be32(p))
        return chat_item(c, p, n);
    c->answered = begins(p + 4, n - 4, c->step ? "{\"t\":\"joined\"" : "{\"t\":\"welcome\"");
    return c->answered ? 4 + (size_t)be32(p) : chat_item(c, p, n);
}

/* A member that is only gone is kept for a while, so that it can come back: in the next run it would be a ghost. */
static void chat_leave(struct text *out)
{
    struct text quit = {0};
    putf(&quit, "{\"t\":\"quit\"}");
    put_frame(out, &quit);
    free(quit.data);
}

static const struct wire {
    const char *name;
    int steps;  /* of a subscriber's handshake */
    int silent; /* a publisher has none */
    int others; /* a publisher gets what the other publishers send */
    int acks;   /* and an answer to each message of his own */
    void (*make)(void);
    void (*ask)(struct peer *, struct text *); /* append what the handshake's step sends */
    /* Each returns the bytes it took, 0 if what begins there has not come in full. */
    size_t (*hear)(struct peer *, const uint8_t *, size_t); /* the step's answer sets answered */
    size_t (*rest)(struct peer *, const uint8_t *, size_t); /* what is no record */
    size_t (*item)(struct peer *, const uint8_t *, size_t); /* in place of records */
    void (*leave)(struct text *); /* append what says that this is the end, and makes the server close; NULL: nothing */
} wires[] = {
    {"frames", 1, 1, 0, 0, frames_make, frames_ask, frames_answer, nothing_else, NULL, NULL},
    {"resp", 1, 0, 0, 1, resp_make, resp_ask, resp_answer, resp_else, NULL, NULL},
    {"nats", 2, 0, 0, 0, nats_make, nats_ask, nats_answer, nats_else, NULL, NULL},
    {"mqtt", 2, 0, 0, 0, mqtt_make, mqtt_ask, mqtt_answer, nothing_else, NULL, NULL},
    {"ws", 2, 0, 0, 0, ws_make, ws_ask, ws_answer, nothing_else, NULL, NULL},
    {"chat", 2, 0, 1, 1, chat_make, chat_ask, chat_answer, NULL, chat_item, chat_leave},
};

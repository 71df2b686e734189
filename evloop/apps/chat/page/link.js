// The connection: opens the WebSocket, opens it again when it is lost, and gives each request its one answer.
// Rule: nothing in this file may know a room or touch the document.

const VERSION = 1; // of the protocol
const SUBPROTOCOL = "evloop-chat.v1.json";
const FIRST_DELAY = 250; // ms; the n-th attempt waits up to this times 2^n
const LONGEST_DELAY = 30_000; // ms
const FURTHEST = 2 ** 31 - 1; // ms; setTimeout takes no more, and calls at once what is to come later
const STEADY = 60_000; // ms; a connection that lasted this long was a good one: the next delay starts anew
const PATIENCE = 10_000; // ms from opening to the welcome: the server's own deadline for a hello
const PROBE = 3_000; // ms that a silent server has for a sign of life
const LATE = 10_000; // ms past the server's own ping until we ask whether it is there

/** Whether a `bye`, whenever it comes, is for now: wire.comes_back() has the same rule. */
const comesBack = (bye) => bye.reconnect || (bye.code >= 3000 && bye.code < 3500);

/** What a request fails with when its connection goes before the answer: nobody knows whether it was done. */
export const LOST = "lost";

/**
 * One logical connection.  States: connecting, connected, lost (an attempt to come back is on), waiting (for the
 * next one, `until` says when), offline (waiting, and the browser has no network), ended (for good, `bye` says why).
 *
 * hooks: hello() returns the first message; welcomed(welcome); refused(error), the answer to hello was an error;
 * message(m), anything that answers nothing; state(), it has changed.
 */
export class Link {
  state = "ended";
  until = 0;
  bye = null;
  #url;
  #hooks;
  #socket = null;
  #timer = 0;
  #waiting = new Map(); // ref -> {resolve, reject}
  #ref = 0;
  #attempt = 0;
  #since = 0; // when the present connection was welcomed
  #heard = 0; // when the last message came
  #pingAfter = 25_000;

  constructor(url, hooks) {
    this.#url = url;
    this.#hooks = hooks;
    addEventListener("online", () => this.retryNow());
    // The event says that an interface went, which may not be ours: a server on this machine is still there.
    addEventListener("offline", () => (this.state === "connected" ? this.#probe() : this.#schedule(true)));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.retryNow();
      this.#watch();
    });
    setInterval(() => this.#watch(), 5_000);
  }

  get connected() {
    return this.state === "connected";
  }

  /** Connect, or connect again after an end. */
  open() {
    this.#drop();
    this.bye = null;
    this.#enter(this.#since ? "lost" : "connecting");
    const socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#lost(), PATIENCE);
    socket.onopen = () => this.#greet(socket);
    socket.onmessage = (event) => this.#received(event.data);
    socket.onclose = (event) => {
      // A bye may have been cut off; its code is the close code, too.
      if (!this.bye && event.code >= 3500 && event.code < 4000) this.bye = { code: event.code, text: event.reason };
      this.#lost();
    };
  }

  /** Try again now instead of at the end of the delay. */
  retryNow() {
    if (this.state === "waiting" || this.state === "offline") this.open();
  }

  /** Send *message*; return a promise of its answer, rejected with {code, text, temp, retry_ms}, or {code: LOST}. */
  request(message) {
    return new Promise((resolve, reject) => {
      if (this.#socket?.readyState !== WebSocket.OPEN) {
        reject({ code: LOST });
        return;
      }
      const ref = ++this.#ref;
      this.#waiting.set(ref, { resolve, reject });
      this.#socket.send(JSON.stringify({ ...message, ref }));
    });
  }

  /** Send *message*, which has no answer; lost if there is no connection. */
  send(message) {
    if (this.connected) this.#socket.send(JSON.stringify(message));
  }

  /** Say good-bye; the server's bye ends the connection. */
  quit() {
    if (this.connected) this.send({ t: "quit" });
    else this.#end({ code: 1000 });
  }

  #greet(socket) {
    const hello = this.#hooks.hello();
    this.request(hello).then(
      (welcome) => {
        clearTimeout(this.#timer);
        if (welcome.v !== VERSION) {
          this.#refused({ code: 3501 });
          return;
        }
        this.#since = performance.now();
        this.#pingAfter = (welcome.ping_s ?? 25) * 1000;
        this.#enter("connected");
        this.#hooks.welcomed(welcome);
      },
      (error) => {
        if (error.code === LOST || socket !== this.#socket) return;
        // A tab that comes back may be watched by nobody: it tries again.  Who comes in is told, and may choose.
        if (error.t === "bye" && comesBack(error)) this.#lost();
        else if (error.t === "err" && error.temp && hello.resume) this.#lost(error.retry_ms);
        else this.#refused(error);
      },
    );
  }

  #refused(error) {
    this.#end({ code: typeof error.code === "number" ? error.code : 3500, text: error.text });
    this.#hooks.refused(error);
  }

  #received(data) {
    this.#heard = performance.now();
    const message = JSON.parse(data);
    if (message.t === "ping") {
      this.#socket.send(JSON.stringify({ t: "pong", n: message.n }));
    } else if (message.t === "bye") {
      this.bye = message;
    }
    const answer = this.#waiting.get(message.ref);
    if (answer) {
      this.#waiting.delete(message.ref);
      if (message.t === "err" || message.t === "bye") answer.reject(message);
      else answer.resolve(message);
    } else {
      this.#hooks.message(message);
    }
  }

  /** The connection is gone, or we give it up: every request fails, and the next attempt is set, *after* so many ms. */
  #lost(after = 0) {
    const bye = this.bye;
    if (this.connected && performance.now() - this.#since > STEADY) this.#attempt = 0;
    this.#drop();
    if (bye && !comesBack(bye)) this.#end(bye);
    else this.#schedule(false, bye?.after_ms ?? after);
  }

  /** Wait for the next attempt.  Full jitter: a thousand pages that lost one server must not return as one. */
  #schedule(waits = false, after = 0) {
    if (waits && this.state !== "waiting") return;
    if (!waits) {
      const drawn = Math.random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** this.#attempt++);
      const delay = Math.min(after + drawn, FURTHEST);
      this.until = performance.now() + delay;
      this.#timer = setTimeout(() => this.open(), delay);
    }
    this.#enter(navigator.onLine ? "waiting" : "offline");
  }

  #end(bye) {
    this.#drop();
    this.bye = bye;
    this.#enter("ended");
  }

  /** Let the socket go without waiting for its close: on a dead network that takes seconds. */
  #drop() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiting) reject({ code: LOST });
  }

  /** Ask for a sign of life; without one in time the connection counts as lost. */
  #probe() {
    const asked = performance.now();
    const socket = this.#socket;
    this.send({ t: "ping", n: this.#ref });
    setTimeout(() => {
      if (socket === this.#socket && this.connected && this.#heard < asked) this.#lost();
    }, PROBE);
  }

  #watch() {
    if (this.connected && performance.now() - this.#heard > this.#pingAfter + LATE) this.#probe();
  }

  #enter(state) {
    this.state = state;
    this.#hooks.state();
  }
}

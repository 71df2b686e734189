// The field in which one writes: sending, the commands, and suggestions for commands and names.
// Rule: nothing in this file may send anything; app.js is told what was written.

import { element } from "./elements.js";
import { text } from "./texts.js";

const MOST_HINTS = 8;
const COUNTED = 0.9; // of the longest body; from there on the field says how much is left
const bytes = new TextEncoder();

/** The commands: name -> the keys of what it takes and of what it does. */
export const COMMANDS = {
  nick: ["argNick", "helpNick"],
  join: ["argRoom", "helpJoin"],
  part: ["", "helpPart"],
  msg: ["argNick argText", "helpMsg"],
  me: ["argText", "helpMe"],
  who: ["", "helpWho"],
  topic: ["argText", "helpTopic"],
  away: ["argText", "helpAway"],
  help: ["", "helpHelp"],
  quit: ["", "helpQuit"],
};

/** Return how the command *name* is written. */
export function usage(name) {
  const args = COMMANDS[name][0].split(" ").filter(Boolean).map((key) => text(key));
  return [`/${name}`, ...args].join(" ");
}

/** hooks: send(body), typing(on), names(): the nicks to suggest, longest(): bytes of a body. */
export class Composer {
  #form;
  #input;
  #send;
  #left;
  #list;
  #hooks;
  #hints = []; // {what, how, put}
  #chosen = 0;

  constructor({ form, input, send, left, list }, hooks) {
    this.#form = form;
    this.#input = input;
    this.#send = send;
    this.#left = left;
    this.#list = list;
    this.#hooks = hooks;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    input.addEventListener("keydown", (event) => this.#key(event));
    input.addEventListener("input", () => this.#changed(true));
    input.addEventListener("blur", () => this.#close());
    this.#changed(false);
  }

  get value() {
    return this.#input.value;
  }

  /** Put *value* into the field; nobody typed it. */
  set value(value) {
    this.#input.value = value;
    this.#changed(false);
  }

  focus() {
    this.#input.focus();
  }

  /** Hand over what was written, if it may be sent. */
  submit() {
    const body = this.value.trimEnd();
    if (!body.trim() || this.#over() > 0) return;
    this.value = "";
    this.#hooks.send(body);
    this.#input.focus();
  }

  #key(event) {
    // The Enter that ends a composition chooses a word and sends nothing.  Safari ends it before the key, with 229.
    if (event.isComposing || event.keyCode === 229 || event.altKey) return;
    const open = this.#hints.length > 0;
    if (open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      const step = event.key === "ArrowDown" ? 1 : this.#hints.length - 1;
      this.#chosen = (this.#chosen + step) % this.#hints.length;
      this.#drawHints();
    } else if (open && event.key === "Tab" && !event.shiftKey) {
      this.#take(this.#chosen);
    } else if (open && event.key === "Escape") {
      this.#close();
    } else if (event.key === "Enter" && !event.shiftKey) {
      if (open && this.#hints[this.#chosen].put !== this.value) this.#take(this.#chosen);
      else this.submit();
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  #over() {
    return bytes.encode(this.value).length - this.#hooks.longest();
  }

  #changed(typed) {
    const over = this.#over();
    this.#left.hidden = over < -this.#hooks.longest() * (1 - COUNTED);
    this.#left.textContent = -over;
    this.#left.classList.toggle("over", over > 0);
    this.#send.disabled = !this.value.trim() || over > 0;
    this.#grow();
    this.#suggest(typed);
    if (typed) this.#hooks.typing(Boolean(this.value.trim()) && !this.value.startsWith("/"));
  }

  /** Where CSS cannot: as high as its lines; style.css holds the most. */
  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    this.#input.style.height = "auto";
    this.#input.style.height = `${this.#input.scrollHeight}px`;
  }

  #suggest(typed) {
    this.#hints = typed ? this.#suggestions() : [];
    this.#chosen = 0;
    this.#drawHints();
  }

  #suggestions() {
    const { value } = this;
    const before = value.slice(0, this.#input.selectionStart);
    const after = value.slice(before.length);
    const command = /^\/(\w*)$/.exec(value);
    if (command) {
      return Object.keys(COMMANDS)
        .filter((name) => name.startsWith(command[1].toLowerCase()))
        .map((name) => ({
          what: usage(name),
          how: text(COMMANDS[name][1]),
          put: COMMANDS[name][0] ? `/${name} ` : `/${name}`,
          at: undefined,
        }));
    }
    const name = /(^|\s)@([^\s@]*)$/u.exec(before);
    if (!name) return [];
    const wanted = name[2].toLowerCase();
    const start = before.length - name[2].length - 1;
    return this.#hooks
      .names()
      .filter((nick) => nick.toLowerCase().startsWith(wanted) && nick.toLowerCase() !== wanted)
      .slice(0, MOST_HINTS)
      .map((nick) => ({
        what: `@${nick}`,
        how: "",
        put: `${value.slice(0, start)}@${nick} ${after}`,
        at: start + nick.length + 2,
      }));
  }

  #take(index) {
    const { put, at } = this.#hints[index];
    this.#input.value = put;
    this.#input.setSelectionRange(at ?? put.length, at ?? put.length);
    this.#changed(true);
    if (!put.endsWith(" ")) this.#close();
  }

  #close() {
    this.#hints = [];
    this.#drawHints();
  }

  #drawHints() {
    const rows = this.#hints.map(({ what, how }, index) => {
      const row = element("li", { id: `hint-${index}`, role: "option" });
      row.append(element("span", { className: "what" }, what), element("span", { className: "how" }, how));
      row.setAttribute("aria-selected", String(index === this.#chosen));
      // Not "click": that would come after the field has lost the focus, and with it the list.
      row.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        this.#take(index);
      });
      return row;
    });
    this.#list.replaceChildren(...rows);
    this.#list.hidden = rows.length === 0;
    if (rows.length) this.#input.setAttribute("aria-activedescendant", `hint-${this.#chosen}`);
    else this.#input.removeAttribute("aria-activedescendant");
    rows[this.#chosen]?.scrollIntoView({ block: "nearest" });
  }
}

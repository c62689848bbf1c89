"use strict";
// A reader holds what a model thinks at each token of a text that changes at its end.

const Reading = (() => {
  class Reader {
    constructor(model, tokenizer) {
      this.model = model;
      this.tokenizer = tokenizer;
      this.begin = model.start();
      this.entries = []; // {token, state, bits, rank}: state after the token
      this.waiting = []; // tokens that are still to be read
      this.typing = null;
      this.text = "";
      this.last = { state: null, values: null };
    }

    /** Takes a new text. What both texts begin with is not read again. */
    take(text) {
      const { tokens, typing } = this.tokenizer.encode(text);
      this.typing = typing;
      this.text = text;
      const same = (a, b) => a.id === b.id && a.start === b.start && a.end === b.end && a.unknown === b.unknown;
      let common = 0;
      while (common < tokens.length && common < this.entries.length && same(tokens[common], this.entries[common].token)) common++;
      this.entries.length = common;
      this.waiting = tokens.slice(common);
    }

    /** Returns the state before entry `index`; without an index, the state after the text. */
    stateBefore(index = this.entries.length) {
      return index ? this.entries[index - 1].state : this.begin;
    }

    /** Returns the log-probabilities of every token after a state; null if there are none yet. */
    next(state) {
      if (this.last.state !== state) this.last = { state, values: this.model.next(state) };
      return this.last.values;
    }

    /** Reads tokens until a time of performance.now(), at least one. Returns whether all are read. */
    advance(deadline) {
      while (this.waiting.length) {
        this.readOne(this.waiting.shift());
        if (performance.now() > deadline) break;
      }
      return !this.waiting.length;
    }

    readOne(token) {
      const before = this.stateBefore();
      if (token.id === null) {
        this.entries.push({ token, state: before, bits: null, rank: null });
        return;
      }
      const values = this.next(before);
      let [bits, rank] = [null, null];
      if (values) {
        bits = -values[token.id] / Math.LN2;
        rank = 1;
        for (let id = 0; id < values.length; id++) if (values[id] > values[token.id]) rank++;
      }
      this.entries.push({ token, state: this.model.read(before, token.id), bits, rank });
    }

    /** Returns {id, probability} of the likeliest tokens before entry `index` or after the text. */
    expected(count, index = this.entries.length) {
      const values = this.next(this.stateBefore(index));
      if (!values) return null;
      const typing = index === this.entries.length ? this.typing : null;
      const among = typing ? this.tokenizer.completions(typing.text) : null;
      const ids = among
        ? Numbers.largest(among.map((id) => values[id]), count).map((place) => among[place])
        : Numbers.largest(values, count);
      return ids.map((id) => ({ id, probability: Math.exp(values[id]) }));
    }

    /**
     * Returns the sum of the surprise in bits, and the characters and tokens that it covers. The blank
     * between two tokens belongs to the second token.
     */
    total() {
      let [bits, characters, tokens] = [0, 0, 0];
      let end = null;
      for (const { token, bits: one } of this.entries) {
        const begin = end === null ? token.start : end;
        end = Math.max(begin, token.end);
        if (one === null) continue;
        bits += one;
        // Code points: a character outside of the basic plane counts once.
        characters += Array.from(this.text.slice(begin, end)).length;
        tokens += 1;
      }
      return { bits, characters, tokens };
    }

    /** Returns whether an entry is a part of a character that it shares with the entry before or after. */
    isPart(index) {
      const { start, end } = this.entries[index].token;
      const [before, after] = [this.entries[index - 1], this.entries[index + 1]];
      return (before !== undefined && before.token.end > start) || (after !== undefined && after.token.start < end);
    }

    /** Returns {start, ids}: where the character of entry `index` begins, and the ids of the entries from there to the entry. */
    before(index) {
      let first = index;
      while (first > 0 && this.entries[first - 1].token.end > this.entries[first].token.start) first--;
      return { start: this.entries[first].token.start, ids: this.entries.slice(first, index).map(({ token }) => token.id) };
    }
  }

  /** Continues a text token by token. Each call of step() returns the whole text. */
  class Writer {
    constructor(reader, text, options) {
      Object.assign(this, { reader, text, options, ids: [] });
      this.state = reader.stateBefore();
      this.random = Numbers.generator(options.seed);
    }

    step() {
      const values = this.reader.model.next(this.state);
      if (!values) return null;
      const { temperature, topK, topP } = this.options;
      const id = Numbers.draw(Numbers.filtered(values, temperature, topK, topP), this.random());
      this.ids.push(id);
      this.state = this.reader.model.read(this.state, id);
      return this.reader.tokenizer.continued(this.text, this.ids);
    }
  }

  return { Reader, Writer };
})();

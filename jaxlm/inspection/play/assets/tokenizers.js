"use strict";
// The tokenizers. encode(text) returns {tokens, typing}:
//   tokens: {id, start, end, unknown} of each token, with its place in the text; tokens that are parts
//     of one character have the place of the character; id is null for a token that the model cannot
//     read, because its vocabulary has no <unk>
//   typing: {start, text} of a word at the end that may not be complete yet, or null

const Tokenizers = (() => {
  // The white space of Python's str.split, and the six ASCII blanks.
  const WORD = /[^\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/gu;
  const WORD_ASCII = /[^ \t\n\r\v\f]+/gu;
  const VISIBLE = new Map([["\n", "⏎"], [" ", "␣"], ["\t", "⇥"], ["\u3000", "␣"]]);

  class Tokenizer {
    constructor(spec) {
      this.spec = spec;
      this.tokens = spec.tokens;
      this.ids = new Map(spec.tokens.map((token, id) => [token, id]));
      this.unknown = spec.unk === null ? null : this.ids.get(spec.unk);
    }

    look(text, start) {
      const known = this.ids.has(text);
      const id = known ? this.ids.get(text) : this.unknown;
      return { id, start, end: start + text.length, unknown: !known };
    }

    /** Returns the text of a token, as a list shows it. */
    text(id) {
      return VISIBLE.get(this.tokens[id]) || this.tokens[id];
    }

    /** Returns the ids of the tokens that begin with what is being typed; null for all. */
    completions() {
      return null;
    }
  }

  class Words extends Tokenizer {
    encode(text) {
      const tokens = [];
      let typing = null;
      let place = 0;
      for (const line of text.split("\n")) {
        for (const match of line.matchAll(this.spec.ascii_blanks ? WORD_ASCII : WORD)) {
          const start = place + match.index;
          const token = this.look(match[0], start);
          if (token.unknown && token.end === text.length) typing = { start, text: match[0] };
          else tokens.push(token);
        }
        place += line.length + 1;
        if (this.spec.eos && place <= text.length) {
          tokens.push({ id: this.ids.get("<eos>"), start: place - 1, end: place, unknown: false });
        }
      }
      return { tokens, typing };
    }

    completions(typing) {
      const ids = [];
      this.tokens.forEach((token, id) => {
        if (token.startsWith(typing)) ids.push(id);
      });
      return ids;
    }

    text(id) {
      return this.tokens[id] === "<eos>" ? "⏎" : super.text(id);
    }

    /** Returns `text` continued by tokens. */
    continued(text, ids) {
      for (const id of ids) {
        const token = this.tokens[id];
        if (token === "<eos>") text += "\n";
        else text += (text === "" || /\s$/u.test(text) ? "" : " ") + token;
      }
      return text;
    }
  }

  class Characters extends Tokenizer {
    encode(text) {
      const tokens = [];
      let place = 0;
      for (const character of text) {
        // A vocabulary of another program may lack the line break, which is then not read.
        if (character !== "\n" || this.ids.has("\n")) tokens.push(this.look(character, place));
        place += character.length;
      }
      return { tokens, typing: null };
    }

    continued(text, ids) {
      // A character that stands for <unk>, because the text <unk> would be read as five characters.
      return text + ids.map((id) => (id === this.unknown ? "\ufffd" : this.tokens[id])).join("");
    }
  }

  /** Returns the text of bytes; a byte that is only a part of a character is written as <0xE6>. */
  function textOfBytes(bytes) {
    const parts = [];
    let place = 0;
    while (place < bytes.length) {
      let found = 0;
      for (let size = 1; size <= 4 && place + size <= bytes.length && !found; size++) {
        try {
          const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
          parts.push(decoder.decode(bytes.subarray(place, place + size)));
          found = size;
        } catch {
          continue;
        }
      }
      if (!found) parts.push(`<0x${bytes[place].toString(16).toUpperCase().padStart(2, "0")}>`);
      place += found || 1;
    }
    return parts.join("");
  }

  /** What the tokenizers of bytes share: `bytes(id)` gives the bytes of a token. */
  class OfBytes extends Tokenizer {
    text(id) {
      const text = textOfBytes(this.bytes(id));
      return VISIBLE.get(text) || text.replace(/\n/gu, "⏎").replace(/ /gu, "␣");
    }

    continued(text, ids) {
      const bytes = Uint8Array.from(ids.flatMap((id) => Array.from(this.bytes(id))));
      // With `stream`, a character whose last bytes are still to come is left out.
      return text + new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes, { stream: true });
    }

    /** Returns the tokens of pieces of text, whose ids are given by `idsOf(bytes)`. */
    place(pieces, idsOf) {
      const encoder = new TextEncoder();
      const tokens = [];
      for (const { text, start } of pieces) {
        // The character of each byte: where it begins and ends in the text.
        const begins = [];
        const ends = [];
        const bytes = [];
        let place = start;
        for (const character of text) {
          for (const byte of encoder.encode(character)) {
            bytes.push(byte);
            begins.push(place);
            ends.push(place + character.length);
          }
          place += character.length;
        }
        let read = 0;
        for (const id of idsOf(bytes)) {
          const size = this.bytes(id).length;
          tokens.push({ id, start: begins[read], end: ends[read + size - 1], unknown: false });
          read += size;
        }
      }
      return { tokens, typing: null };
    }
  }

  class Bytes extends OfBytes {
    bytes(id) {
      return Uint8Array.of(id);
    }

    encode(text) {
      return this.place([{ text, start: 0 }], (bytes) => bytes);
    }
  }

  /** The letter that byte-level BPE writes for each byte (Radford et al. 2019). */
  function lettersOfBytes() {
    const visible = (byte) => (byte >= 0x21 && byte < 0x7f) || (byte >= 0xa1 && byte < 0xad) || byte >= 0xae;
    let others = 0;
    return Array.from({ length: 256 }, (_, byte) =>
      String.fromCharCode(visible(byte) ? byte : 0x100 + others++),
    );
  }

  class BPE extends OfBytes {
    constructor(spec) {
      super(spec);
      this.letters = lettersOfBytes();
      this.byteOf = new Map(this.letters.map((letter, byte) => [letter, byte]));
      this.ranks = new Map(spec.merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
      this.split = new RegExp(spec.pattern, "gu");
    }

    bytes(id) {
      const letters = Array.from(this.tokens[id]);
      if (!letters.every((letter) => this.byteOf.has(letter))) return new TextEncoder().encode(this.tokens[id]);
      return Uint8Array.from(letters, (letter) => this.byteOf.get(letter));
    }

    merge(bytes) {
      const parts = bytes.map((byte) => this.letters[byte]);
      for (;;) {
        let best = Infinity;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
          if (rank !== undefined && rank < best) best = rank;
        }
        if (best === Infinity) return parts.map((part) => this.ids.get(part));
        const [left, right] = this.spec.merges[best];
        for (let i = 0; i + 1 < parts.length; i++) {
          if (parts[i] === left && parts[i + 1] === right) parts.splice(i, 2, left + right);
        }
      }
    }

    encode(text) {
      const pieces = [];
      for (const match of text.matchAll(this.split)) pieces.push({ text: match[0], start: match.index });
      return this.place(pieces, (bytes) => this.merge(bytes));
    }
  }

  const KINDS = { words: Words, chars: Characters, bytes: Bytes, bpe: BPE };

  return { make: (spec) => new KINDS[spec.kind](spec) };
})();

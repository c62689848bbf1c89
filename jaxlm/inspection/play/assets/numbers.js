"use strict";
// Numbers of the page: unpacking of arrays, softmax, and the distribution to sample from.

const Numbers = (() => {
  const TYPES = {
    uint8: Uint8Array,
    uint16: Uint16Array,
    uint32: Uint32Array,
    int32: Int32Array,
    float32: Float32Array,
    float16: Uint16Array,
  };

  /** Returns the value of every float16, by its 16 bits. */
  function float16Table() {
    const table = new Float32Array(65536);
    for (let bits = 0; bits < 65536; bits++) {
      const sign = bits & 0x8000 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
      else if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
      else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
    }
    return table;
  }

  let table = null;

  function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  /** Returns the bytes of a zlib stream. */
  async function inflate(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** Returns bytes whose first bytes of all numbers come first, then their second bytes, in order. */
  function inRows(bytes, size) {
    const rows = new Uint8Array(bytes.length);
    const count = bytes.length / size;
    for (let column = 0, from = 0; column < size; column++) {
      for (let row = 0; row < count; row++) rows[row * size + column] = bytes[from++];
    }
    return rows;
  }

  /** Returns a typed array from {dtype, shape, data, deflated}; float16 becomes float32. */
  async function unpack(packed) {
    const type = TYPES[packed.dtype];
    let bytes = bytesOf(packed.data);
    if (packed.deflated) bytes = inRows(await inflate(bytes), type.BYTES_PER_ELEMENT);
    const raw = new type(bytes.buffer);
    if (packed.dtype !== "float16") return raw;
    table = table || float16Table();
    const values = new Float32Array(raw.length);
    for (let i = 0; i < raw.length; i++) values[i] = table[raw[i]];
    return values;
  }

  /** Changes logits into log-probabilities in place, and returns them. */
  function logSoftmax(logits) {
    let largest = -Infinity;
    for (let i = 0; i < logits.length; i++) if (logits[i] > largest) largest = logits[i];
    let sum = 0;
    for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - largest);
    const total = largest + Math.log(sum);
    for (let i = 0; i < logits.length; i++) logits[i] -= total;
    return logits;
  }

  /** Returns the ids of the `count` largest numbers, largest first; of equal numbers the lower id. */
  function largest(values, count) {
    const ids = [];
    for (let id = 0; id < values.length; id++) {
      if (ids.length === count && !(values[id] > values[ids[count - 1]])) continue;
      let place = ids.length;
      while (place > 0 && values[id] > values[ids[place - 1]]) place--;
      ids.splice(place, 0, id);
      if (ids.length > count) ids.pop();
    }
    return ids;
  }

  /**
   * Returns the probabilities to sample from: temperature, then top-k, then top-p.
   * topK and topP may be null. Of equally probable tokens the lower ids are kept.
   */
  function filtered(logProbs, temperature, topK, topP) {
    const size = logProbs.length;
    const probabilities = new Float64Array(size);
    const best = largest(logProbs, 1)[0];
    if (!(temperature > 1e-30)) {
      probabilities[best] = 1;
      return probabilities;
    }
    const order = Array.from(logProbs.keys());
    if (topK !== null || topP !== null) order.sort((a, b) => logProbs[b] - logProbs[a] || a - b);
    const kept = topK === null ? size : Math.min(topK, size);
    let sum = 0;
    for (let i = 0; i < kept; i++) {
      const id = order[i];
      probabilities[id] = Math.exp((logProbs[id] - logProbs[best]) / temperature);
      sum += probabilities[id];
    }
    let before = 0;
    let total = 0;
    for (let i = 0; i < kept; i++) {
      const id = order[i];
      const share = probabilities[id] / sum;
      if (topP !== null && i > 0 && before >= topP - 1e-6) probabilities[id] = 0;
      before += share;
      total += probabilities[id];
    }
    for (let id = 0; id < size; id++) probabilities[id] /= total;
    return probabilities;
  }

  /** Returns an id drawn from probabilities by a random number in [0, 1). */
  function draw(probabilities, random) {
    let sum = 0;
    let last = 0;
    for (let id = 0; id < probabilities.length; id++) {
      if (probabilities[id] === 0) continue;
      sum += probabilities[id];
      last = id;
      if (random < sum) return id;
    }
    return last;
  }

  /** Returns a generator of random numbers in [0, 1): mulberry32 by Tommy Ettinger. */
  function generator(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = state;
      t = Math.imul(t ^ (t >>> 15), t | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  /** Returns a number from N(0, 1), by the method of Box and Muller. */
  function normal(random) {
    return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  }

  return { unpack, logSoftmax, largest, filtered, draw, generator, normal };
})();

"use strict";
// The models. Each model has three methods, and a state is never changed once it is made:
//   start()         the state before the text
//   read(state, id) the state after one more token
//   next(state)     log-probabilities of every next token, or null if the text is too short
// `inside(state)` returns what the state holds, for the pictures.

const Models = (() => {
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const logSigmoid = (x) => (x < 0 ? x - Math.log1p(Math.exp(x)) : -Math.log1p(Math.exp(-x)));
  const positive = (x) => (x >= 0 ? x + 0.5 : sigmoid(x));

  /** Returns b + x K for a matrix K [inputs, outputs]. `bias` may be null. */
  function affine(x, kernel, bias, outputs) {
    const y = new Float32Array(outputs);
    if (bias) y.set(bias);
    let i = 0;
    // Four rows at a time: y is read and written once for the four.
    for (; i + 4 <= x.length; i += 4) {
      const [a, b, c, d] = [x[i], x[i + 1], x[i + 2], x[i + 3]];
      const first = i * outputs;
      const second = first + outputs;
      const third = second + outputs;
      const fourth = third + outputs;
      for (let j = 0; j < outputs; j++) {
        y[j] += a * kernel[first + j] + b * kernel[second + j] + c * kernel[third + j] + d * kernel[fourth + j];
      }
    }
    for (; i < x.length; i++) {
      const value = x[i];
      const row = i * outputs;
      for (let j = 0; j < outputs; j++) y[j] += value * kernel[row + j];
    }
    return y;
  }

  /** Returns b + x K^T for a matrix K [outputs, inputs]: the embedding as the output matrix. */
  function transposed(x, kernel, bias, outputs) {
    const y = new Float32Array(outputs);
    const inputs = x.length;
    for (let j = 0; j < outputs; j++) {
      let sum = bias[j];
      const row = j * inputs;
      for (let i = 0; i < inputs; i++) sum += x[i] * kernel[row + i];
      y[j] = sum;
    }
    return y;
  }

  /** Returns (h, h, ..., 1) K for a vector K: the product with h is elementwise up to `width`. */
  function elementwise(h, kernel, width) {
    const y = new Float32Array(kernel.length);
    for (let i = 0; i < y.length; i++) y[i] = (i < width ? h[i % h.length] : 1) * kernel[i];
    return y;
  }

  /** Returns the features with mean 0 and variance 1, scaled and shifted. */
  function layerNorm(x, norm) {
    let mean = 0;
    for (let i = 0; i < x.length; i++) mean += x[i];
    mean /= x.length;
    let variance = 0;
    for (let i = 0; i < x.length; i++) variance += (x[i] - mean) ** 2;
    const factor = 1 / Math.sqrt(variance / x.length + 1e-6);
    const y = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) y[i] = (x[i] - mean) * factor * norm.scale[i] + norm.bias[i];
    return y;
  }

  function sum(a, b) {
    const y = new Float32Array(a.length);
    for (let i = 0; i < a.length; i++) y[i] = a[i] + b[i];
    return y;
  }

  /** Returns a GRU whose new h is mix(update, candidate, h), unit by unit. */
  const gatedUnit = (mix) => ({
    carry: ["h"],
    step(x, u, [h], size) {
      const next = new Float32Array(size);
      for (let i = 0; i < size; i++) {
        const reset = sigmoid(x[i] + u[i]);
        const update = sigmoid(x[size + i] + u[size + i]);
        const candidate = Math.tanh(x[2 * size + i] + reset * u[2 * size + i]);
        next[i] = mix(update, candidate, h[i]);
      }
      return [next];
    },
  });

  // A cell: x = W x + b and u = U h (and its bias) hold every gate in order, `size` numbers each.
  // u is null if the cell has no U. A cell whose U is a vector may have weights after the gates in u.
  // `step` returns the new carry, h first.
  const CELLS = {
    rnn: {
      carry: ["h"],
      step(x, u, [h], size) {
        const next = new Float32Array(size);
        for (let i = 0; i < size; i++) next[i] = Math.tanh(x[i] + u[i]);
        return [next];
      },
    },
    gru: gatedUnit((update, candidate, h) => (1 - update) * candidate + update * h),
    lstm: {
      carry: ["h", "c"],
      step(x, u, [h, c], size) {
        const next = new Float32Array(size);
        const cell = new Float32Array(size);
        for (let i = 0; i < size; i++) {
          const input = sigmoid(x[i] + u[i]);
          const forget = sigmoid(x[size + i] + u[size + i]);
          const candidate = Math.tanh(x[2 * size + i] + u[2 * size + i]);
          const output = sigmoid(x[3 * size + i] + u[3 * size + i]);
          cell[i] = forget * c[i] + input * candidate;
          next[i] = output * Math.tanh(cell[i]);
        }
        return [next, cell];
      },
    },
    mingru: {
      carry: ["h"],
      step(x, u, [h], size) {
        const next = new Float32Array(size);
        for (let i = 0; i < size; i++) {
          const update = sigmoid(x[i]);
          next[i] = (1 - update) * h[i] + update * positive(x[size + i]);
        }
        return [next];
      },
    },
    minlstm: {
      carry: ["h"],
      step(x, u, [h], size) {
        const next = new Float32Array(size);
        for (let i = 0; i < size; i++) {
          const forget = sigmoid(logSigmoid(x[i]) - logSigmoid(x[size + i]));
          next[i] = forget * h[i] + (1 - forget) * positive(x[2 * size + i]);
        }
        return [next];
      },
    },
    paragru: gatedUnit((update, candidate, h) => (1 - update) * h + update * candidate),
    paralstm: {
      carry: ["h", "c"],
      step(x, u, [, c], size) {
        const next = new Float32Array(size);
        const cell = new Float32Array(size);
        // The last 2 * size numbers of u are the peepholes of the forget gate and of the output gate.
        for (let i = 0; i < size; i++) {
          const forget = sigmoid(x[i] + u[i] + u[3 * size + i] * c[i]);
          const candidate = Math.tanh(x[size + i] + u[size + i]);
          cell[i] = forget * c[i] + (1 - forget) * candidate;
          const output = sigmoid(x[2 * size + i] + u[2 * size + i] + u[4 * size + i] * cell[i]);
          next[i] = output * Math.tanh(cell[i]);
        }
        return [next, cell];
      },
    },
  };

  /** The embedding and the output layer, which all neural models share. */
  class Neural {
    constructor(spec, arrays) {
      this.spec = spec;
      this.size = spec.vocab_size;
      this.arrays = arrays;
      this.features = spec.embedding_size;
    }

    norm(index) {
      const name = `norms_${index}`;
      return { scale: this.arrays[`${name}/scale`], bias: this.arrays[`${name}/bias`] };
    }

    embed(id) {
      const start = id * this.features;
      return this.arrays["embedding/embedding"].subarray(start, start + this.features);
    }

    logProbs(hidden) {
      const { arrays } = this;
      const bias = arrays["output/bias"];
      if (!this.spec.tied) {
        return Numbers.logSoftmax(affine(hidden, arrays["output/kernel"], bias, this.size));
      }
      const project = arrays["output/project"];
      const x = project ? affine(hidden, project, null, this.features) : hidden;
      return Numbers.logSoftmax(transposed(x, arrays["embedding/embedding"], bias, this.size));
    }
  }

  class Recurrent extends Neural {
    constructor(spec, arrays) {
      super(spec, arrays);
      this.cell = CELLS[spec.cell];
      this.window = null;
    }

    start() {
      const { spec, arrays } = this;
      const carry = spec.layers.map((size, layer) =>
        this.cell.carry.map((name) => arrays[`start/${layer}/${name}`] || new Float32Array(size)),
      );
      const state = { carry, hidden: null };
      return spec.start.ids.reduce((before, id) => this.read(before, id), state);
    }

    read(state, id) {
      const { spec, arrays } = this;
      let h = this.embed(id);
      const carry = spec.layers.map((size, layer) => {
        const x = spec.layer_norm ? layerNorm(h, this.norm(layer)) : h;
        const before = state.carry[layer];
        const name = `layers_${layer}`;
        const bias = arrays[`${name}/input/bias`];
        const input = affine(x, arrays[`${name}/input/kernel`], bias, bias.length);
        const kernel = arrays[`${name}/recurrent/kernel`];
        const u = kernel ? this.recurrent(before[0], name, kernel, bias.length) : null;
        const after = this.cell.step(input, u, before, size);
        h = spec.residual && h.length === size ? sum(h, after[0]) : after[0];
        return after;
      });
      return { carry, hidden: spec.layer_norm ? layerNorm(h, this.norm(spec.layers.length)) : h };
    }

    /** Returns u = h U (and its bias), for U a matrix, or a vector if a unit reads no other unit. */
    recurrent(h, name, kernel, width) {
      const bias = this.arrays[`${name}/recurrent/bias`] || null;
      if (kernel.length === h.length * width) return affine(h, kernel, bias, width);
      const u = elementwise(h, kernel, width);
      return bias ? sum(u, bias) : u;
    }

    next(state) {
      return state.hidden && this.logProbs(state.hidden);
    }

    inside(state) {
      const arrays = state.carry.map((layer, index) =>
        this.cell.carry.map((name, place) => ({ layer: index + 1, name, values: layer[place] })),
      );
      return arrays.flat();
    }
  }

  class NPLM extends Neural {
    constructor(spec, arrays) {
      super(spec, arrays);
      this.window = spec.n_step;
    }

    start() {
      const { spec } = this;
      const state = { window: spec.start.carry, missing: spec.start.missing };
      return spec.start.ids.reduce((before, id) => this.read(before, id), state);
    }

    read(state, id) {
      const window = [...state.window, id].slice(-this.spec.n_step);
      return { window, missing: Math.max(0, state.missing - 1) };
    }

    /** Returns the features that the output layer reads, and the last tanh layer. */
    hidden(state) {
      const { spec, arrays } = this;
      const x = new Float32Array(spec.n_step * this.features);
      state.window.forEach((id, place) => x.set(this.embed(id), place * this.features));
      const parts = [];
      if (spec.hidden_size) {
        let a = affine(x, arrays["hidden/kernel"], arrays["hidden/bias"], spec.hidden_size).map(Math.tanh);
        for (let layer = 1; layer < spec.num_layers; layer++) {
          const input = spec.layer_norm ? layerNorm(a, this.norm(layer - 1)) : a;
          const name = `hidden_${layer}`;
          const next = affine(input, arrays[`${name}/kernel`], arrays[`${name}/bias`], spec.hidden_size);
          for (let i = 0; i < next.length; i++) next[i] = Math.tanh(next[i]);
          a = spec.residual ? sum(a, next) : next;
        }
        parts.push(spec.layer_norm ? layerNorm(a, this.norm(spec.num_layers - 1)) : a);
      }
      if (spec.direct) parts.push(x);
      const all = new Float32Array(parts.reduce((length, part) => length + part.length, 0));
      let place = 0;
      for (const part of parts) {
        all.set(part, place);
        place += part.length;
      }
      return { x, all, last: parts[0] };
    }

    next(state) {
      return state.missing ? null : this.logProbs(this.hidden(state).all);
    }

    inside(state) {
      if (state.missing) return [];
      const { x, last } = this.hidden(state);
      return [
        { layer: 1, name: "hidden", values: last },
        { layer: 0, name: "features", values: x },
      ];
    }
  }

  const NOTHING = -1;

  /** Back-off tables. The n-grams of an order are sorted by their prefix, then by their word. */
  class NGram {
    constructor(spec, arrays) {
      this.spec = spec;
      this.size = spec.vocab_size;
      this.window = spec.order - 1;
      this.probabilities = [];
      this.backoffs = [];
      this.words = [];
      this.starts = [];
      for (let order = 1; order <= spec.order; order++) {
        this.probabilities.push(arrays[`probabilities-${order}`]);
        this.backoffs.push(arrays[`backoffs-${order}`]);
        this.words.push(arrays[`words-${order}`]);
        const counts = arrays[`followers-${order}`];
        if (!counts) {
          this.starts.push(null);
          continue;
        }
        // n-grams of the prefix p: starts[p] to starts[p + 1].
        const starts = new Uint32Array(counts.length + 1);
        for (let i = 0; i < counts.length; i++) starts[i + 1] = starts[i] + counts[i];
        this.starts.push(starts);
      }
    }

    /** Returns the id of the n-gram (prefix, word) of `order`, by binary search, or NOTHING. */
    find(order, prefix, word) {
      const words = this.words[order - 1];
      const starts = this.starts[order - 1];
      let low = starts[prefix];
      let high = starts[prefix + 1];
      while (low < high) {
        const middle = (low + high) >>> 1;
        if (words[middle] < word) low = middle + 1;
        else high = middle;
      }
      return low < starts[prefix + 1] && words[low] === word ? low : NOTHING;
    }

    start() {
      const { spec } = this;
      const state = { window: spec.start.carry };
      return spec.start.ids.reduce((before, id) => this.read(before, id), state);
    }

    read(state, id) {
      const { spec } = this;
      const seen = !spec.stream && id === spec.start_id ? this.size : id;
      return { window: spec.order > 1 ? [...state.window, seen].slice(1 - spec.order) : [] };
    }

    /** Returns the ids of the contexts of 1 ... order - 1 tokens, NOTHING if a context is not listed. */
    contexts(state) {
      const { window } = state;
      const ids = [];
      for (let length = 1; length < this.spec.order; length++) {
        let id = window[window.length - length];
        for (let place = window.length - length + 1, order = 2; place < window.length; place++, order++) {
          const word = window[place];
          const inside = word >= 0 && word < this.size;
          id = id !== NOTHING && inside ? this.find(order, id, word) : NOTHING;
        }
        ids.push(id === undefined ? NOTHING : id);
      }
      return ids;
    }

    /** Returns the probability of every word, and the order of the n-gram that gave it. */
    distribution(state) {
      const probabilities = Float64Array.from(this.probabilities[0].subarray(0, this.size));
      const orders = new Uint8Array(this.size).fill(1);
      this.contexts(state).forEach((context, place) => {
        if (context === NOTHING) return;
        const order = place + 2;
        const weight = this.backoffs[order - 2][context];
        for (let id = 0; id < this.size; id++) probabilities[id] *= weight;
        const words = this.words[order - 1];
        const starts = this.starts[order - 1];
        for (let i = starts[context]; i < starts[context + 1]; i++) {
          probabilities[words[i]] = this.probabilities[order - 1][i];
          orders[words[i]] = order;
        }
      });
      return { probabilities, orders };
    }

    next(state) {
      const { probabilities } = this.distribution(state);
      for (let id = 0; id < this.size; id++) probabilities[id] = Math.log(probabilities[id]);
      return probabilities;
    }

    orders(state) {
      return this.distribution(state).orders;
    }

    /** Returns, for each order, the context, and how many words were counted after it. */
    ladder(state) {
      const { window } = state;
      const rungs = this.contexts(state).map((context, place) => {
        const order = place + 2;
        const starts = this.starts[order - 1];
        const followers = context === NOTHING ? 0 : starts[context + 1] - starts[context];
        return { order, context: window.slice(1 - order), followers };
      });
      return rungs.reverse();
    }

    inside() {
      return [];
    }
  }

  const KINDS = { recurrent: Recurrent, nplm: NPLM, ngram: NGram };

  /** Returns the model of a description whose arrays are packed. */
  async function make(spec) {
    const arrays = {};
    for (const [name, packed] of Object.entries(spec.arrays)) arrays[name] = await Numbers.unpack(packed);
    return new KINDS[spec.kind](spec, arrays);
  }

  return { make, CELLS };
})();

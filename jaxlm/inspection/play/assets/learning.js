"use strict";
// The lecture's NPLM and LSTM, trained in the page: their gradients by hand, and Adam.
//
// A row is {tokens, targets}: the ids that are read, and [place, id] of each word to predict after
// the token at `place`. The loss is the mean of -log P(word) over all targets. A matrix [I, O] is a
// Float64Array, row after row.

const Learning = (() => {
  const sigmoid = (x) => 1 / (1 + Math.exp(-x));

  /** Adds x K to y, for K [x.length, y.length]. */
  function multiplyInto(y, x, kernel) {
    for (let i = 0; i < x.length; i++) {
      for (let j = 0, row = i * y.length; j < y.length; j++) y[j] += x[i] * kernel[row + j];
    }
  }

  /** Given the gradient dy of y = x K, adds the gradients of K and of x. dx may be null. */
  function multiplyBack(dy, x, kernel, dKernel, dx) {
    for (let i = 0; i < x.length; i++) {
      let sum = 0;
      for (let j = 0, row = i * dy.length; j < dy.length; j++) {
        dKernel[row + j] += x[i] * dy[j];
        sum += kernel[row + j] * dy[j];
      }
      if (dx) dx[i] += sum;
    }
  }

  function addInto(y, x) {
    for (let i = 0; i < x.length; i++) y[i] += x[i];
  }

  /** Changes logits into probabilities in place. */
  function softmax(logits) {
    const largest = Math.max(...logits);
    let sum = 0;
    for (let i = 0; i < logits.length; i++) sum += logits[i] = Math.exp(logits[i] - largest);
    for (let i = 0; i < logits.length; i++) logits[i] /= sum;
    return logits;
  }

  function uniform(length, limit, random) {
    return Float64Array.from({ length }, () => limit * (2 * random() - 1));
  }

  /** What both models have: the embedding C [V, D], and the output layer U [H, V], b [V]. */
  class Learner {
    constructor(sizes) {
      Object.assign(this, sizes); // words V, features D, hidden H, and steps of the NPLM
    }

    zeros() {
      const zeros = {};
      for (const [name, values] of Object.entries(this.params)) zeros[name] = new Float64Array(values.length);
      return zeros;
    }

    embed(id) {
      return this.params["embedding/embedding"].subarray(id * this.features, (id + 1) * this.features);
    }

    scores(hidden) {
      const y = Float64Array.from(this.params["output/bias"]);
      multiplyInto(y, hidden, this.params["output/kernel"]);
      return y;
    }

    predict(hidden) {
      return softmax(this.scores(hidden));
    }

    /** Adds the gradients of -weight log P(id); returns its value and the gradient of `hidden`. */
    lossBack(hidden, id, weight, grads) {
      const dy = this.scores(hidden);
      const largest = Math.max(...dy);
      const score = dy[id] - largest;
      softmax(dy);
      // log P(id) is not the logarithm of P(id), which is 0 where P(id) is too small for a number.
      // The likeliest word has P = 1 / sum.
      const loss = weight * (-Math.log(Math.max(...dy)) - score);
      dy[id] -= 1;
      for (let i = 0; i < dy.length; i++) dy[i] *= weight;
      addInto(grads["output/bias"], dy);
      const dHidden = new Float64Array(hidden.length);
      multiplyBack(dy, hidden, this.params["output/kernel"], grads["output/kernel"], dHidden);
      return { loss, dHidden };
    }

    /** Returns the mean loss of the rows, and its gradient by the name of each parameter. */
    gradient(rows) {
      const grads = this.zeros();
      const count = rows.reduce((sum, row) => sum + row.targets.length, 0);
      let loss = 0;
      for (const row of rows) loss += this.rowBack(row, 1 / count, grads);
      return { loss, grads };
    }
  }

  /** x = the features of n words, a = tanh(d + x H), y = b + a U (Bengio et al. 2003). */
  class NPLM extends Learner {
    constructor(sizes, random) {
      super(sizes);
      const { words, features, hidden, steps } = sizes;
      const window = steps * features;
      this.params = {
        "embedding/embedding": Float64Array.from({ length: words * features }, () => Numbers.normal(random) / Math.sqrt(features)),
        "hidden/kernel": uniform(window * hidden, window ** -0.5, random),
        "hidden/bias": new Float64Array(hidden),
        "output/kernel": uniform(hidden * words, hidden ** -0.5, random),
        "output/bias": new Float64Array(words),
      };
    }

    window(tokens, place) {
      const x = new Float64Array(this.steps * this.features);
      for (let n = 0; n < this.steps; n++) x.set(this.embed(tokens[place - this.steps + 1 + n]), n * this.features);
      return x;
    }

    hiddenOf(x) {
      const a = Float64Array.from(this.params["hidden/bias"]);
      multiplyInto(a, x, this.params["hidden/kernel"]);
      return a.map(Math.tanh);
    }

    /** Returns P of every word after the token at `place`. */
    next(tokens, place = tokens.length - 1) {
      return this.predict(this.hiddenOf(this.window(tokens, place)));
    }

    rowBack({ tokens, targets }, weight, grads) {
      let total = 0;
      for (const [place, id] of targets) {
        const x = this.window(tokens, place);
        const a = this.hiddenOf(x);
        const { loss, dHidden } = this.lossBack(a, id, weight, grads);
        total += loss;
        for (let i = 0; i < a.length; i++) dHidden[i] *= 1 - a[i] * a[i];
        addInto(grads["hidden/bias"], dHidden);
        const dx = new Float64Array(x.length);
        multiplyBack(dHidden, x, this.params["hidden/kernel"], grads["hidden/kernel"], dx);
        for (let i = 0; i < x.length; i++) {
          const token = tokens[place - this.steps + 1 + Math.floor(i / this.features)];
          grads["embedding/embedding"][token * this.features + (i % this.features)] += dx[i];
        }
      }
      return total;
    }
  }

  /** i, f, o = σ(W x + b + U h), g = tanh(W x + b + U h), c' = f c + i g, h' = o tanh(c'). */
  class LSTM extends Learner {
    constructor(sizes, random) {
      super(sizes);
      const { words, features, hidden } = sizes;
      const bias = new Float64Array(4 * hidden);
      bias.fill(1, hidden, 2 * hidden); // a new model remembers
      this.params = {
        "embedding/embedding": Float64Array.from({ length: words * features }, () => Numbers.normal(random) / Math.sqrt(features)),
        "layers_0/input/kernel": uniform(features * 4 * hidden, hidden ** -0.5, random),
        "layers_0/input/bias": bias,
        "layers_0/recurrent/kernel": uniform(hidden * 4 * hidden, hidden ** -0.5, random),
        "output/kernel": uniform(hidden * words, hidden ** -0.5, random),
        "output/bias": new Float64Array(words),
      };
    }

    /** Returns what each step computes: x, gates, c and h. */
    forward(tokens) {
      const H = this.hidden;
      const steps = [];
      let h = new Float64Array(H);
      let c = new Float64Array(H);
      for (const token of tokens) {
        const x = this.embed(token);
        const s = Float64Array.from(this.params["layers_0/input/bias"]);
        multiplyInto(s, x, this.params["layers_0/input/kernel"]);
        multiplyInto(s, h, this.params["layers_0/recurrent/kernel"]);
        const step = { token, x, before: { h, c }, gates: s, h: new Float64Array(H), c: new Float64Array(H) };
        for (let k = 0; k < H; k++) {
          s[k] = sigmoid(s[k]);
          s[H + k] = sigmoid(s[H + k]);
          s[2 * H + k] = Math.tanh(s[2 * H + k]);
          s[3 * H + k] = sigmoid(s[3 * H + k]);
          step.c[k] = s[H + k] * c[k] + s[k] * s[2 * H + k];
          step.h[k] = s[3 * H + k] * Math.tanh(step.c[k]);
        }
        ({ h, c } = step);
        steps.push(step);
      }
      return steps;
    }

    next(tokens, place = tokens.length - 1) {
      return this.predict(this.forward(tokens.slice(0, place + 1))[place].h);
    }

    rowBack({ tokens, targets }, weight, grads) {
      const H = this.hidden;
      const steps = this.forward(tokens);
      const dHidden = steps.map(() => new Float64Array(H));
      let total = 0;
      for (const [place, id] of targets) {
        const back = this.lossBack(steps[place].h, id, weight, grads);
        total += back.loss;
        addInto(dHidden[place], back.dHidden);
      }
      // Backpropagation through time: from the last step to the first.
      let dh = new Float64Array(H);
      let dc = new Float64Array(H);
      for (let t = steps.length - 1; t >= 0; t--) {
        const { token, x, before, gates, c } = steps[t];
        addInto(dh, dHidden[t]);
        const ds = new Float64Array(4 * H);
        for (let k = 0; k < H; k++) {
          const [i, f, g, o] = [gates[k], gates[H + k], gates[2 * H + k], gates[3 * H + k]];
          const bounded = Math.tanh(c[k]);
          dc[k] += dh[k] * o * (1 - bounded * bounded);
          ds[k] = dc[k] * g * i * (1 - i);
          ds[H + k] = dc[k] * before.c[k] * f * (1 - f);
          ds[2 * H + k] = dc[k] * i * (1 - g * g);
          ds[3 * H + k] = dh[k] * bounded * o * (1 - o);
          dc[k] *= f;
        }
        addInto(grads["layers_0/input/bias"], ds);
        const dx = grads["embedding/embedding"].subarray(token * this.features, (token + 1) * this.features);
        multiplyBack(ds, x, this.params["layers_0/input/kernel"], grads["layers_0/input/kernel"], dx);
        dh = new Float64Array(H);
        multiplyBack(ds, before.h, this.params["layers_0/recurrent/kernel"], grads["layers_0/recurrent/kernel"], dh);
      }
      return total;
    }
  }

  /** Adam (Kingma & Ba 2015), as `optax.adam`. */
  class Adam {
    constructor(learner) {
      this.mean = learner.zeros();
      this.square = learner.zeros();
      this.count = 0;
    }

    step(params, grads, rate, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8) {
      this.count += 1;
      const correct1 = 1 - beta1 ** this.count;
      const correct2 = 1 - beta2 ** this.count;
      for (const [name, values] of Object.entries(params)) {
        const [m, v, g] = [this.mean[name], this.square[name], grads[name]];
        for (let i = 0; i < values.length; i++) {
          m[i] = beta1 * m[i] + (1 - beta1) * g[i];
          v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
          values[i] -= (rate * (m[i] / correct1)) / (Math.sqrt(v[i] / correct2) + epsilon);
        }
      }
    }
  }

  const MODELS = { nplm: NPLM, lstm: LSTM };

  /**
   * Returns the rows of a text: its vocabulary, and what each model reads and predicts.
   * `all`: predict every word, not only the last of a line. `steps`: words that the NPLM sees; a
   * shorter line is left out, and counted in `short`.
   */
  function rowsOf(text, steps, all) {
    const lines = text.split("\n").map((line) => line.trim().split(/\s+/u).filter(Boolean));
    const long = lines.filter((line) => line.length > steps);
    const short = lines.filter((line) => line.length && line.length <= steps).length;
    const words = [...new Set(long.flat())];
    const ids = new Map(words.map((word, id) => [word, id]));
    const rows = long.map((line) => {
      const tokens = line.map((word) => ids.get(word));
      const targets = tokens.map((id, place) => [place - 1, id]);
      return { tokens: tokens.slice(0, -1), targets: all ? targets.slice(steps) : targets.slice(-1) };
    });
    return { words, rows, short };
  }

  return { MODELS, Adam, rowsOf };
})();

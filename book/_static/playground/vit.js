// The Vision Transformer, Eq. 1 to 4 of Dosovitskiy et al. (2021), forward only.
//
// The same parts in the same order and under the same names as vitlite/model.py. T = 65 tokens: the class token and 64
// patches; D = 96 is their width, h = 4 the number of heads. A tensor is a Float64Array, row by row; its shape stands
// at the line.
var playground = globalThis.playground ?? {};

(() => {
  const { Linear, matmul, readTensors, softmax, transpose } = playground;

  // Cut the image into patches, flatten each, and map it linearly to width D (x_p E of Eq. 1).
  class PatchEmbed {
    constructor(tensors, name, { patch_size, in_channels }) {
      [this.patchSize, this.inChannels] = [patch_size, in_channels];
      this.projection = new Linear(tensors, `${name}.projection`);
    }

    // [C, H, W] -> [N, D], row by row from the top left.
    forward(image) {
      const side = Math.sqrt(image.length / this.inChannels), P = this.patchSize;
      const patches = new Float64Array(image.length); // [N, C·P·P]
      let i = 0;
      for (let top = 0; top < side; top += P)
        for (let left = 0; left < side; left += P)
          for (let channel = 0; channel < this.inChannels; channel++)
            for (let y = top; y < top + P; y++)
              for (let x = left; x < left + P; x++) patches[i++] = image[(channel * side + y) * side + x];
      return this.projection.forward(patches); // [N, D]
    }
  }

  class LayerNorm {
    constructor(tensors, name, { layer_norm_eps }) {
      [this.weight, this.bias, this.eps] = [tensors[`${name}.weight`], tensors[`${name}.bias`], layer_norm_eps];
    }

    // [T, D] -> [T, D]: each token to mean 0 and variance 1, then scaled and moved.
    forward(x) {
      const D = this.weight.length, y = new Float64Array(x.length);
      for (let start = 0; start < x.length; start += D) {
        let mean = 0, variance = 0;
        for (let i = 0; i < D; i++) mean += x[start + i] / D;
        for (let i = 0; i < D; i++) variance += (x[start + i] - mean) ** 2 / D;
        const scale = 1 / Math.sqrt(variance + this.eps);
        for (let i = 0; i < D; i++) y[start + i] = (x[start + i] - mean) * scale * this.weight[i] + this.bias[i];
      }
      return y;
    }
  }

  // Multi-head self-attention (Eq. 6 to 8 in App. A): every token asks all tokens, h times in parallel.
  class Attention {
    constructor(tensors, name, { embed_dim, num_heads }) {
      [this.embedDim, this.numHeads, this.headDim] = [embed_dim, num_heads, embed_dim / num_heads];
      this.scale = this.headDim ** -0.5; // 1 / sqrt(head width), not of the whole width
      this.qkv = new Linear(tensors, `${name}.qkv`);
      this.projection = new Linear(tensors, `${name}.projection`);
    }

    // One head's queries (part 0), keys (1) or values (2): [T, 3, h, D/h] -> [T, D/h].
    part(qkv, part, head, T) {
      const { embedDim: D, headDim } = this, out = new Float64Array(T * headDim);
      for (let token = 0; token < T; token++) {
        const start = token * 3 * D + part * D + head * headDim;
        out.set(qkv.subarray(start, start + headDim), token * headDim);
      }
      return out;
    }

    // Attention weights [T, T] of one head's queries and keys [T, D/h]; each row sums to 1.
    weights(query, key, T) {
      const logits = matmul(query.map((value) => value * this.scale), key, this.headDim); // [T, T]
      for (let row = 0; row < T; row++) softmax(logits, row * T, T);
      return logits;
    }

    // [T, D] -> [T, D] and the weights [h, T, T]; a head in `ablated` adds nothing.
    forward(x, ablated) {
      const { embedDim: D, numHeads, headDim } = this, T = x.length / D;
      const qkv = this.qkv.forward(x); // [T, 3, h, D/h]
      const attention = new Float64Array(numHeads * T * T), mixed = new Float64Array(T * D);
      for (let head = 0; head < numHeads; head++) {
        const [query, key, value] = [0, 1, 2].map((part) => this.part(qkv, part, head, T)); // each [T, D/h]
        const weights = this.weights(query, key, T); // [T, T]
        attention.set(weights, head * T * T);
        if (ablated.has(head)) continue;
        const own = matmul(weights, transpose(value, headDim), T); // [T, D/h]
        for (let token = 0; token < T; token++) // the heads side by side
          mixed.set(own.subarray(token * headDim, (token + 1) * headDim), token * D + head * headDim);
      }
      return [this.projection.forward(mixed), attention];
    }
  }

  // erf from its power series, once at every 1/256 up to 6; between them a cubic through values and slopes.
  const STEPS = 256, grid = Float64Array.from({ length: 6 * STEPS + 2 }, (_, i) => i / STEPS);
  const slopes = grid.map((x) => (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x));
  const values = grid.map((x, i) => {
    let sum = x, term = x;
    for (let n = 1; term > 1e-17 * sum; n++) sum += term *= (2 * x * x) / (2 * n + 1);
    return slopes[i] * sum;
  });

  function erf(x) {
    const at = Math.abs(x) * STEPS, i = Math.floor(at), t = at - i;
    if (at >= 6 * STEPS) return Math.sign(x);
    const a = values[i], b = values[i + 1], p = slopes[i] / STEPS, q = slopes[i + 1] / STEPS;
    return Math.sign(x) * (a + t * (p + t * (3 * (b - a) - 2 * p - q + t * (2 * (a - b) + p + q))));
  }

  const gelu = (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2));

  // Two linear layers with a GELU between them, applied to each token alone.
  class Mlp {
    constructor(tensors, name) {
      [this.expand, this.contract] = [new Linear(tensors, `${name}.expand`), new Linear(tensors, `${name}.contract`)];
    }

    forward(x) {
      return this.contract.forward(this.expand.forward(x).map(gelu)); // [T, D] -> [T, mlp_dim] -> [T, D]
    }
  }

  // One pre-norm encoder block: attention (Eq. 2), then the MLP (Eq. 3), each with its residual.
  class Block {
    constructor(tensors, name, config) {
      this.norm1 = new LayerNorm(tensors, `${name}.norm1`, config);
      this.attention = new Attention(tensors, `${name}.attention`, config);
      this.norm2 = new LayerNorm(tensors, `${name}.norm2`, config);
      this.mlp = new Mlp(tensors, `${name}.mlp`);
    }

    // [T, D] -> [T, D] and the attention weights [h, T, T].
    forward(z, ablated) {
      const [mixed, attention] = this.attention.forward(this.norm1.forward(z), ablated);
      z = add(z, mixed); // Eq. 2: z'_l = MSA(LN(z_{l-1})) + z_{l-1}
      z = add(z, this.mlp.forward(this.norm2.forward(z))); // Eq. 3: z_l = MLP(LN(z'_l)) + z'_l
      return [z, attention];
    }
  }

  const add = (x, y) => x.map((value, i) => value + y[i]);

  class ViT {
    constructor(file) {
      const tensors = readTensors(file), { config } = file;
      this.config = config;
      this.patchEmbed = new PatchEmbed(tensors, "patch_embed", config);
      this.classToken = tensors.class_token; // [1, D]
      this.position = tensors.position; // [T, D]; a network without positions has none
      this.blocks = Array.from({ length: config.depth }, (_, i) => new Block(tensors, `blocks.${i}`, config));
      this.norm = new LayerNorm(tensors, "norm", config);
      this.head = new Linear(tensors, "head.0");
    }

    // z_0 of Eq. 1: patch embeddings [N, D] -> the class token in front, positions added, [T, D].
    tokens(patches, positions) {
      const z = new Float64Array(this.classToken.length + patches.length);
      z.set(this.classToken);
      z.set(patches, this.classToken.length);
      return positions && this.position ? add(z, this.position) : z;
    }

    // The head applied to the class token: z [T, D] -> logits [classes] (Eq. 4).
    logits(z) {
      return this.head.forward(this.norm.forward(z.subarray(0, this.config.embed_dim)));
    }

    // An image [C, H, W], normalised, -> its logits; the attention [h, T, T] of each layer; and every token's state
    // [T, D], first as it enters, then after each layer. Switched off: positions; layers; heads by layer.
    forward(image, { positions = true, layersOff = new Set(), headsOff = [] } = {}) {
      let z = this.tokens(this.patchEmbed.forward(image), positions);
      const states = [z], maps = [];
      this.blocks.forEach((block, layer) => {
        const [next, attention] = block.forward(z, headsOff[layer] ?? new Set());
        if (!layersOff.has(layer)) z = next;
        states.push(z);
        maps.push(attention);
      });
      return { logits: this.logits(z), attention: maps, states };
    }
  }

  playground.ViT = ViT;
})();

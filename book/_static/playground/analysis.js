// What is read off one forward pass of the ViT; the same definitions as in vitlite.analysis.
var playground = globalThis.playground ?? {};

(() => {
  const { matmul, softmax, transpose } = playground;

  // The head applied to the class token as it enters and after each layer: probabilities [layers + 1][classes].
  const lens = (model, states) => states.map((z) => softmax(model.logits(z)));

  // The mean over those heads of a layer that are on: [h, T, T] -> [T, T], or null if none is.
  function meanHead(attention, heads, off = new Set()) {
    const area = attention.length / heads, on = [...Array(heads).keys()].filter((head) => !off.has(head));
    if (!on.length) return null;
    const mean = new Float64Array(area);
    for (const head of on) for (let i = 0; i < area; i++) mean[i] += attention[head * area + i] / on.length;
    return mean;
  }

  // How much of each input token is in each output token, if attention alone mixed them, [T, T], after each layer: heads
  // averaged, the identity added for the residual connection, layers multiplied. What is switched off mixes nothing.
  function rollout(attention, heads, T, { layersOff = new Set(), headsOff = [] } = {}) {
    let total = Float64Array.from({ length: T * T }, (_, i) => Number(i % (T + 1) === 0));
    return attention.map((layer, number) => {
      const mean = layersOff.has(number) ? null : meanHead(layer, heads, headsOff[number]);
      if (!mean) return total;
      const mixed = matmul(mean, transpose(total, T), T);
      return (total = mixed.map((value, i) => (value + total[i]) / 2));
    });
  }

  // How far a head looks: pixels between the centres of query and key patch, weighted by attention, class token apart.
  function distance(attention, head, T, patchSize) {
    const columns = Math.sqrt(T - 1);
    let total = 0;
    for (let query = 1; query < T; query++) {
      let seen = 0, looked = 0;
      for (let key = 1; key < T; key++) {
        const weight = attention[(head * T + query) * T + key];
        const down = Math.floor((key - 1) / columns) - Math.floor((query - 1) / columns);
        const across = ((key - 1) % columns) - ((query - 1) % columns);
        seen += weight;
        looked += weight * Math.sqrt(down * down + across * across);
      }
      total += ((looked / seen) * patchSize) / (T - 1);
    }
    return total;
  }

  // The cosine of one token's state with every token's: [T, D] -> [T].
  function cosine(z, token, T) {
    const D = z.length / T, dot = (a, b) => {
      let sum = 0;
      for (let i = 0; i < D; i++) sum += z[a * D + i] * z[b * D + i];
      return sum;
    };
    return Float64Array.from({ length: T }, (_, other) =>
      dot(token, other) / Math.sqrt(dot(token, token) * dot(other, other)));
  }

  Object.assign(playground, { cosine, distance, lens, meanHead, rollout });
})();

// What both networks share: their weights, read from a script file, and the linear layer.
//
// Tensors are Float64Arrays, row by row. In double precision the order of additions does not matter here, so the
// numbers agree with PyTorch's to far more digits than anybody looks at.
// All scripts of the page share this one object. `var`, for an element with this id must not stand in its way.
var playground = globalThis.playground ?? {};

(() => {
  // float16, two bytes a number, to float64.
  function decode(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Float64Array.from(new Uint16Array(bytes.buffer), (half) => {
      const [sign, exponent, fraction] = [half & 0x8000 ? -1 : 1, (half >> 10) & 31, half & 1023];
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
    });
  }

  // The tensors of one network by the name that PyTorch's state_dict gives them.
  function readTensors(file) {
    const numbers = decode(file.bytes);
    let start = 0;
    return Object.fromEntries(file.tensors.map(([name, size]) => [name, numbers.subarray(start, (start += size))]));
  }

  // [rows, n] and [outs, n] -> [rows, outs]: the dot product of every row with every output's row, x Wᵀ.
  // One sum is a chain of additions; two rows by four outputs side by side keep the processor busy. Where the sizes are
  // no multiples, the last block overlaps the one before.
  function matmul(x, weight, n) {
    const rows = x.length / n, outs = weight.length / n, y = new Float64Array(rows * outs);
    for (let row = 0; row < rows; row += 2) {
      const next = Math.min(row + 1, rows - 1), x0 = row * n, x1 = next * n;
      for (let block = 0; block < outs; block += 4) {
        const out = Math.min(block, outs - 4), w0 = out * n, w1 = w0 + n, w2 = w1 + n, w3 = w2 + n;
        let a0 = 0, b0 = 0, c0 = 0, d0 = 0, a1 = 0, b1 = 0, c1 = 0, d1 = 0;
        for (let i = 0; i < n; i++) {
          const p = x[x0 + i], q = x[x1 + i];
          const a = weight[w0 + i], b = weight[w1 + i], c = weight[w2 + i], d = weight[w3 + i];
          a0 += p * a; b0 += p * b; c0 += p * c; d0 += p * d;
          a1 += q * a; b1 += q * b; c1 += q * c; d1 += q * d;
        }
        const y0 = row * outs + out, y1 = next * outs + out;
        y[y0] = a0; y[y0 + 1] = b0; y[y0 + 2] = c0; y[y0 + 3] = d0;
        y[y1] = a1; y[y1 + 1] = b1; y[y1 + 2] = c1; y[y1 + 3] = d1;
      }
    }
    return y;
  }

  // [rows, columns] -> [columns, rows]
  function transpose(x, columns) {
    const rows = x.length / columns, y = new Float64Array(x.length);
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) y[column * rows + row] = x[row * columns + column];
    return y;
  }

  class Linear {
    constructor(tensors, name) {
      this.weight = tensors[`${name}.weight`]; // [out, in]
      this.bias = tensors[`${name}.bias`]; // [out]
    }

    // [rows, in] -> [rows, out]: x Wᵀ + b
    forward(x) {
      const outs = this.bias.length, y = matmul(x, this.weight, this.weight.length / outs);
      for (let i = 0; i < y.length; i++) y[i] += this.bias[i % outs];
      return y;
    }
  }

  // Numbers to probabilities, in place, from `start` on.
  function softmax(x, start = 0, length = x.length) {
    let largest = -Infinity, sum = 0;
    for (let i = start; i < start + length; i++) largest = Math.max(largest, x[i]);
    for (let i = start; i < start + length; i++) sum += x[i] = Math.exp(x[i] - largest);
    for (let i = start; i < start + length; i++) x[i] /= sum;
    return x;
  }

  // Pixels [H, W, 3] of 0 to 255 to what a network was trained on: [3, H, W] of mean 0 and spread 1, rounded to float32
  // wherever vitlite.data does.
  function normalise(pixels, { mean, std }) {
    const round = Math.fround, area = pixels.length / 3, image = new Float64Array(pixels.length);
    const [shift, scale] = [mean, std].map((figures) => figures.map((figure) => round(round(figure) * 255)));
    for (let i = 0; i < pixels.length; i++) {
      const channel = i % 3;
      image[channel * area + (i - channel) / 3] = round(round(pixels[i] - shift[channel]) / scale[channel]);
    }
    return image;
  }

  Object.assign(playground, { Linear, matmul, normalise, readTensors, softmax, transpose });
})();

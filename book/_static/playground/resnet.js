// The ResNet of He et al. (2016), Sec. 4.2, forward only, as vitlite/resnet.py builds it: a 3×3 convolution, three stages
// of residual blocks, average pooling, one linear layer. A feature map is { values [side, side, C], side }.
var playground = globalThis.playground ?? {};

(() => {
  const { Linear, matmul, readTensors } = playground;

  // A convolution without bias: what lies under the kernel becomes a row, and the rows meet the weights [out, C·k·k].
  class Conv {
    constructor(tensors, name, kernel, stride) {
      [this.weight, this.kernel, this.stride] = [tensors[`${name}.weight`], kernel, stride];
    }

    forward({ values, side }) {
      const { weight, kernel, stride } = this, border = (kernel - 1) / 2;
      const C = values.length / side ** 2, small = Math.ceil(side / stride), n = C * kernel * kernel;
      const rows = new Float64Array(small * small * n); // [small, small, C, k, k]; beyond the border lie zeros
      for (let y = 0, to = 0; y < small; y++)
        for (let x = 0; x < small; x++, to += n)
          for (let dy = 0; dy < kernel; dy++)
            for (let dx = 0; dx < kernel; dx++) {
              const row = y * stride + dy - border, column = x * stride + dx - border;
              if (row < 0 || row >= side || column < 0 || column >= side) continue;
              const from = (row * side + column) * C, tap = dy * kernel + dx;
              for (let c = 0; c < C; c++) rows[to + c * kernel * kernel + tap] = values[from + c];
            }
      return { values: matmul(rows, weight, n), side: small };
    }
  }

  // After training a batch norm is one scale and one shift for each channel.
  class BatchNorm {
    constructor(tensors, name) {
      const get = (part) => tensors[`${name}.${part}`];
      this.scale = get("weight").map((weight, i) => weight / Math.sqrt(get("running_var")[i] + 1e-5));
      this.shift = get("bias").map((bias, i) => bias - get("running_mean")[i] * this.scale[i]);
    }

    forward({ values, side }) {
      const { scale, shift } = this, C = scale.length;
      return { values: values.map((value, i) => value * scale[i % C] + shift[i % C]), side };
    }
  }

  const relu = (map) => ({ ...map, values: map.values.map((value) => (value > 0 ? value : 0)) });
  const add = (a, b) => ({ ...a, values: a.values.map((value, i) => value + b.values[i]) });

  class BasicBlock {
    constructor(tensors, name, stride) {
      this.conv1 = new Conv(tensors, `${name}.conv1`, 3, stride);
      this.bn1 = new BatchNorm(tensors, `${name}.bn1`);
      this.conv2 = new Conv(tensors, `${name}.conv2`, 3, 1);
      this.bn2 = new BatchNorm(tensors, `${name}.bn2`);
      if (`${name}.downsample.0.weight` in tensors) {
        this.downsample = new Conv(tensors, `${name}.downsample.0`, 1, stride);
        this.downsampleNorm = new BatchNorm(tensors, `${name}.downsample.1`);
      }
    }

    forward(x) {
      const branch = relu(this.bn1.forward(this.conv1.forward(x)));
      const shortcut = this.downsample ? this.downsampleNorm.forward(this.downsample.forward(x)) : x;
      return relu(add(this.bn2.forward(this.conv2.forward(branch)), shortcut));
    }
  }

  class ResNet {
    constructor(file) {
      const tensors = readTensors(file), { in_channels, blocks } = file.config;
      this.inChannels = in_channels;
      this.conv = new Conv(tensors, "trunk.0", 3, 1);
      this.norm = new BatchNorm(tensors, "trunk.1");
      this.blocks = [3, 4, 5].flatMap((stage) =>
        Array.from({ length: blocks }, (_, i) =>
          new BasicBlock(tensors, `trunk.${stage}.${i}`, stage > 3 && i === 0 ? 2 : 1)));
      this.head = new Linear(tensors, "head");
    }

    // An image [C, H, W], normalised, -> its logits.
    forward(image) {
      const area = image.length / this.inChannels;
      const values = image.map((_, i) => image[(i % this.inChannels) * area + Math.floor(i / this.inChannels)]);
      let map = relu(this.norm.forward(this.conv.forward({ values, side: Math.sqrt(area) })));
      for (const block of this.blocks) map = block.forward(map);
      const C = map.values.length / map.side ** 2, features = new Float64Array(C); // the mean over the map
      map.values.forEach((value, i) => (features[i % C] += value / map.side ** 2));
      return { logits: this.head.forward(features) };
    }
  }

  playground.ResNet = ResNet;
})();

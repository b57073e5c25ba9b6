// What the page shows, as one small object; its form as a link; and what the edits make of a picture.
//
// The picture is turned and shifted first, then cut into 8 × 8 patches, then its patches are moved, then covered.
var playground = globalThis.playground ?? {};

(() => {
  const SIDE = 32, PATCH = 4, GRID = 8, PATCHES = 64, LAYERS = 6, HEADS = 4, VERSION = "1";
  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"; // one for each patch
  const MAPS = ["none", "1", "2", "3", "4", "mean", "rollout"];
  const inOrder = () => Array.from({ length: PATCHES }, (_, i) => i);

  const fresh = () => ({
    scene: 24, // or null, where the picture is the reader's own
    turn: 0, // quarters, clockwise
    shift: [0, 0], // pixels right and down; what leaves at one side enters at the other
    order: inOrder(), // for each place, which patch lies there
    covered: new Set(), // places
    layer: 5, // which layer is looked into, from 0
    token: 0, // who looks: 0 is the class token, then the patches
    light: "none", // which map lights the picture
    positions: true,
    layersOff: new Set(),
    headsOff: Array.from({ length: LAYERS }, () => new Set()),
    beside: "", // a second network
  });

  // ---- as a link

  const whole = (low, high) => (text) => {
    if (!/^-?\d{1,3}$/.test(text) || Number(text) < low || Number(text) > high) throw new Error();
    return Number(text);
  };

  function readOrder(text) {
    const order = [...text].map((letter) => LETTERS.indexOf(letter));
    if (order.length !== PATCHES || new Set(order).size !== PATCHES || order.includes(-1)) throw new Error();
    return order;
  }

  function readCovered(text) {
    if (!/^[0-9a-f]{16}$/.test(text)) throw new Error();
    return new Set(inOrder().filter((i) => (parseInt(text[i >> 2], 16) >> (3 - (i & 3))) & 1));
  }

  function oneOf(known) {
    return (text) => {
      if (!known.includes(text)) throw new Error();
      return text;
    };
  }

  function readShift(text) {
    const parts = text.split(",").map(whole(1 - SIDE, SIDE - 1));
    if (parts.length !== 2) throw new Error();
    return parts;
  }

  // "3" is layer 3, "3.2" its second head.
  function readOff(text, state) {
    for (const item of text.split(",")) {
      const [layer, head] = item.split(".");
      const row = whole(1, LAYERS)(layer) - 1;
      if (head === undefined) state.layersOff.add(row);
      else state.headsOff[row].add(whole(1, HEADS)(head) - 1);
    }
  }

  // Read a link's state.
  // Throws an Error whose message is a sentence for the reader.
  function parse(hash) {
    const state = fresh(), { networks, labels } = playground.scenes;
    const readers = {
      scene: (text) => (state.scene = whole(1, labels.length)(text) - 1),
      turn: (text) => (state.turn = whole(0, 3)(text)),
      shift: (text) => (state.shift = readShift(text)),
      order: (text) => (state.order = readOrder(text)),
      cover: (text) => (state.covered = readCovered(text)),
      layer: (text) => (state.layer = whole(1, LAYERS)(text) - 1),
      token: (text) => (state.token = whole(0, PATCHES)(text)),
      light: (text) => (state.light = oneOf(MAPS)(text)),
      positions: (text) => (state.positions = oneOf(["on", "off"])(text) === "on"),
      off: (text) => readOff(text, state),
      beside: (text) => (state.beside = oneOf(networks.slice(1).map(({ name }) => name))(text)),
    };
    const parts = hash.slice(1).split("&").map((part) => part.split("="));
    const [name, version] = parts.shift();
    if (name === "v" && version !== VERSION)
      throw new Error("This link was made by another version of this page, which cannot read it.");
    if (name !== "v") throw new Error("The part of this link after the # is no state of this page.");
    for (const [key, value, ...rest] of parts) {
      try {
        if (rest.length || !Object.hasOwn(readers, key)) throw new Error();
        readers[key](value);
      } catch {
        throw new Error(`This link is damaged: its part “${key.slice(0, 20)}” cannot be read.`);
      }
    }
    return state;
  }

  // The link of a state: only what differs from the first one.
  function format(state) {
    const parts = [`v=${VERSION}`, `scene=${state.scene + 1}`];
    const off = [...state.layersOff].map((layer) => layer + 1).sort();
    state.headsOff.forEach((heads, layer) => off.push(...[...heads].sort().map((head) => `${layer + 1}.${head + 1}`)));
    if (state.turn) parts.push(`turn=${state.turn}`);
    if (state.shift.some(Boolean)) parts.push(`shift=${state.shift}`);
    if (state.order.some((patch, i) => patch !== i)) parts.push(`order=${state.order.map((i) => LETTERS[i]).join("")}`);
    if (state.covered.size) {
      const digits = new Array(16).fill(0);
      for (const i of state.covered) digits[i >> 2] |= 8 >> (i & 3);
      parts.push(`cover=${digits.map((digit) => digit.toString(16)).join("")}`);
    }
    if (state.layer !== 5) parts.push(`layer=${state.layer + 1}`);
    if (state.token) parts.push(`token=${state.token}`);
    if (state.light !== "none") parts.push(`light=${state.light}`);
    if (!state.positions) parts.push("positions=off");
    if (off.length) parts.push(`off=${off}`);
    if (state.beside) parts.push(`beside=${state.beside}`);
    return `#${parts.join("&")}`;
  }

  // ---- the picture

  // Pixels [32, 32, 3] after all edits of a state; `grey` is what covers a patch.
  function picture(source, { turn, shift, order, covered }, grey) {
    const pixels = new Uint8ClampedArray(source.length), wrap = (i) => (i + SIDE) % SIDE;
    for (let y = 0, to = 0; y < SIDE; y++)
      for (let x = 0; x < SIDE; x++, to += 3) {
        const place = Math.floor(y / PATCH) * GRID + Math.floor(x / PATCH), patch = order[place];
        let row = wrap(Math.floor(patch / GRID) * PATCH + (y % PATCH) - shift[1]);
        let column = wrap((patch % GRID) * PATCH + (x % PATCH) - shift[0]);
        for (let i = 0; i < turn; i++) [row, column] = [SIDE - 1 - column, row];
        const from = (row * SIDE + column) * 3;
        for (let i = 0; i < 3; i++) pixels[to + i] = covered.has(place) ? grey[i] : source[from + i];
      }
    return pixels;
  }

  // The same state with the contents of two places exchanged.
  function swapped(state, a, b) {
    const order = [...state.order];
    [order[a], order[b]] = [order[b], order[a]];
    return { ...state, order };
  }

  function shuffled(state) {
    const order = [...state.order];
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(Math.random() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return { ...state, order };
  }

  function shifted(state, right, down) {
    const [x, y] = state.shift;
    return { ...state, shift: [(x + right) % SIDE, (y + down) % SIDE] };
  }

  Object.assign(playground, { GRID, HEADS, LAYERS, PATCH, SIDE, format, fresh, parse, picture, shifted, shuffled, swapped });
})();

// The page: it holds the state, lets the networks answer, draws what they say, and listens to mouse, touch and keys.
var playground = globalThis.playground ?? {};

(() => {
  const { Bars, Distances, GRID, HEADS, LAYERS, Lens, Mark, PATCH, SIDE, TokenMap } = playground;
  const { canvasOf, make, paint, patchAt, percent, placeName, tokenName } = playground;
  const HERE = document.currentScript.src.replace(/[^/]*$/, ""); // the folder that a second network is loaded from
  const TOKENS = GRID * GRID + 1;
  const LOOK = { "1": "Head 1", "2": "Head 2", "3": "Head 3", "4": "Head 4", mean: "Mean of heads", rollout: "Rollout" };
  const TOOLS = {
    look: ["Look", "Point at a patch: the maps below show where it looks. Click, tap or Enter keeps it."],
    cover: ["Cover", "Draw over patches to cover them; start on a covered one to bare them. Keys: arrows, then Space."],
    swap: ["Swap", "Drag one patch onto another. Keys: arrows; Space takes one, Space again puts it down."],
    draw: ["Draw", "Paint with the brush on what you see. Keys: arrows, then Space fills a patch."],
  };
  const COLOURS = {
    black: "#111111", white: "#ffffff", red: "#d03c2c", orange: "#e8862a", yellow: "#e8cf3a", green: "#3f9b4b",
    blue: "#2f6fc4", violet: "#8b4fb0",
  };
  const exactly = (share) => `${(100 * share).toFixed(9)}\u00a0%`;
  const centre = ({ offsetLeft, offsetWidth, parentElement: strip }) => // in the strip that it scrolls in
    (strip.scrollLeft = offsetLeft + offsetWidth / 2 - strip.clientWidth / 2);
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  class Page {
    constructor(root) {
      const { scenes, weights } = playground, [first] = scenes.networks;
      this.root = root;
      this.file = weights[first.name];
      this.models = { [first.name]: new playground[this.file.kind](this.file) };
      this.vit = this.models[first.name];
      this.grey = this.file.mean.map((mean) => Math.round(255 * mean));
      const bytes = Uint8Array.from(atob(scenes.bytes), (letter) => letter.charCodeAt(0)), size = SIDE * SIDE * 3;
      this.scenes = scenes.labels.map((_, i) => bytes.subarray(i * size, (i + 1) * size));
      this.own = null; // the reader's picture
      this.state = playground.fresh();
      this.past = [];
      this.tool = "look";
      this.colour = COLOURS.red;
      this.cursor = this.hover = null; // patches
      this.held = null; // the patch that is being swapped
      const parts = this.build();
      this.follow();
      root.replaceChildren(...parts); // last: until all has gone well, the still picture stays
      this.inView = null;
      this.draw();
      addEventListener("hashchange", () => this.follow());
    }

    // ------------------------------------------------------------ state

    // Take the state of the address after the #: a story, a link, or nothing.
    follow() {
      const { hash } = location;
      if (this.answer && this.state.scene !== null && hash === playground.format(this.state)) return;
      if (Object.hasOwn(playground.stories, hash.slice(1))) return this.tell(hash.slice(1), 0);
      if (!hash || document.getElementById(hash.slice(1))) return this.change("", this.state);
      try {
        this.change("The state of your link", playground.parse(hash));
      } catch (error) {
        this.change("", playground.fresh());
        this.say(`${error.message} Here is the first picture instead.`);
      }
    }

    // Go to another state; `what` says what was done.
    change(what, state, keep = true) {
      if (keep && state !== this.state) this.past.push([this.state, this.own]);
      const before = this.answer;
      this.state = state;
      this.update();
      this.say(`${what ? `${what}. ` : ""}${this.sentence(before)}`);
    }

    undo() {
      const last = this.past.pop();
      if (!last) return this.say("There is nothing to undo.");
      const before = this.answer;
      [this.state, this.own] = last;
      this.update();
      this.say(`Undone. ${this.sentence(before)}`);
    }

    // The unedited picture.
    source() {
      return this.state.scene === null ? this.own : this.scenes[this.state.scene];
    }

    // What is seen becomes a picture of the reader's own, without edits.
    adopt(pixels) {
      this.past.push([this.state, this.own]);
      this.own = Uint8Array.from(pixels);
      const { turn, shift, order, covered } = playground.fresh();
      this.state = { ...this.state, scene: null, turn, shift, order, covered };
    }

    isOff(layer, head) {
      return this.state.layersOff.has(layer) || this.state.headsOff[layer].has(head);
    }

    // ------------------------------------------------------------ what the networks say

    update() {
      const { state, vit } = this;
      this.pixels = playground.picture(this.source(), state, this.grey);
      this.passed = vit.forward(playground.normalise(this.pixels, this.file), state);
      this.lens = playground.lens(vit, this.passed.states);
      this.rollout = playground.rollout(this.passed.attention, HEADS, TOKENS, state);
      this.shares = this.lens.at(-1);
      this.answer = this.best(this.shares);
      this.draw();
      this.second();
    }

    best(shares) {
      const top = shares.indexOf(Math.max(...shares));
      return { name: playground.scenes.classes[top], share: shares[top] };
    }

    // The second network answers a moment later: loaded when first asked for, and slower.
    second() {
      const name = this.state.beside, pixels = this.pixels;
      clearTimeout(this.waiting);
      if (!name) {
        this.bars.draw(1, null);
        this.drawVerdict(1, null);
        this.otherAnswer = null;
        return;
      }
      if (!this.otherAnswer) this.drawVerdict(1, this.label(name), null);
      this.waiting = setTimeout(async () => {
        try {
          await this.load(name);
        } catch (error) {
          return this.say(error.message);
        }
        if (name !== this.state.beside || pixels !== this.pixels) return;
        const shares = playground.softmax(this.models[name].forward(
          playground.normalise(pixels, playground.weights[name])).logits);
        this.otherAnswer = this.best(shares);
        this.bars.draw(1, shares);
        this.drawVerdict(1, this.label(name), this.otherAnswer);
        this.tellAgain();
        const { name: answer, share } = this.otherAnswer;
        const more = `${this.label(name)}: ${answer}, ${percent(share)}.`;
        this.live.textContent = this.telling ? this.storySentence() : `${this.spoken} ${more}`;
      }, 40);
    }

    label(name) {
      return playground.scenes.networks.find((network) => network.name === name).label;
    }

    load(name) {
      if (this.models[name]) return Promise.resolve();
      return new Promise((resolve, reject) => {
        const failed = () => reject(new Error(
          `The ${this.label(name)} could not be loaded: its file ${name}.js is missing or damaged.`));
        const script = make("script", { src: `${HERE}${name}.js`, error: failed, load: () => {
          try {
            const file = playground.weights[name];
            this.models[name] = new playground[file.kind](file);
            resolve();
          } catch {
            failed();
          }
        } });
        document.head.append(script);
      });
    }

    // ------------------------------------------------------------ drawing

    draw() {
      const { state } = this;
      paint(this.canvas, this.pixels);
      this.bars.draw(0, this.shares);
      this.lensRows.draw(this.lens, playground.scenes.classes);
      this.drawLooks();
      if (state.scene !== null && state.scene !== this.inView) {
        this.inView = state.scene;
        centre(this.thumbs[state.scene]);
      }
      this.thumbs.forEach((thumb, i) => {
        thumb.setAttribute("aria-checked", String(i === state.scene));
        thumb.tabIndex = i === (state.scene ?? 0) ? 0 : -1;
      });
      const { classes, labels, networks } = playground.scenes;
      this.truth.textContent = state.scene === null ? "Your own picture" : `Truth: ${classes[labels[state.scene]]}`;
      this.drawVerdict(0, networks[0].label, this.answer);
      this.positions.checked = state.positions;
      this.layerOn.checked = !state.layersOff.has(state.layer);
      this.beside.value = state.beside;
      this.root.classList.toggle("pg-two", Boolean(state.beside));
      this.link.hidden = state.scene === null;
    }

    // What depends on the layer and on who looks, without another forward pass.
    drawLooks() {
      const { state, passed } = this, { layer } = state, token = this.hover === null ? state.token : this.hover + 1;
      const attention = passed.attention[layer], from = token * TOKENS;
      const row = (map, start) => map.subarray(start + from + 1, start + from + TOKENS);
      const rows = Object.fromEntries([...Array(HEADS).keys()].map((head) => [head + 1, row(attention, head * TOKENS * TOKENS)]));
      rows.mean = row(playground.meanHead(attention, HEADS), 0);
      rows.rollout = row(this.rollout[layer], 0);
      for (const [key, { map, text, title }] of Object.entries(this.looks)) {
        const values = rows[key], high = Math.max(...values), top = values.indexOf(high);
        map.draw(values, 0, high, token - 1);
        map.describe(`${tokenName(token)} looks most at ${placeName(top)}, ${percent(high)}`);
        text.textContent = `max ${percent(high)}`;
        title.setAttribute("aria-pressed", String(state.light === key));
        const off = key in [0, 1, 2, 3, 4] ? this.isOff(layer, key - 1) : state.layersOff.has(layer);
        map.box.classList.toggle("pg-is-off", off);
      }
      this.switches.forEach((box, head) => (box.checked = !state.headsOff[layer].has(head)));
      const cosine = playground.cosine(passed.states[layer + 1], token, TOKENS).subarray(1), least = Math.min(...cosine);
      this.cosine.draw(cosine, least, 1, token - 1);
      this.cosineText.textContent = `dark ${least.toFixed(2).replace("-", "−")}, bright 1.00`;
      const distances = (this.passed.distances ??= passed.attention.map((maps) =>
        [0, 1, 2, 3].map((head) => playground.distance(maps, head, TOKENS, PATCH))));
      this.distances.draw(distances, layer, (l, head) => this.isOff(l, head));
      this.drawLight(rows[state.light]);
      this.mark.move(token - 1);
      this.cursorMark.move(this.cursor);
      this.heldMark.move(this.held);
      this.layers.forEach((button, i) => {
        button.setAttribute("aria-pressed", String(i === layer));
        button.classList.toggle("pg-is-off", state.layersOff.has(i));
      });
      this.classToken.setAttribute("aria-pressed", String(token === 0));
      this.asks.textContent = tokenName(token);
    }

    // Darken what the chosen map gives little.
    drawLight(values) {
      const context = this.light.getContext("2d"), image = new ImageData(GRID, GRID);
      if (values) {
        const high = Math.max(...values);
        values.forEach((value, i) => (image.data[4 * i + 3] = 210 * (1 - value / high)));
      }
      context.putImageData(image, 0, 0);
    }

    // ------------------------------------------------------------ in words

    sentence(before) {
      const { name, share } = this.answer;
      const was = before && (before.name !== name || percent(before.share) !== percent(share));
      const change = was ? ` (was ${before.name}, ${percent(before.share)})` : "";
      return `${this.label(playground.scenes.networks[0].name)}: ${name}, ${percent(share)}${change}.`;
    }

    say(text) {
      this.spoken = this.live.textContent = text;
      this.telling = Boolean(this.story) && text === this.storySentence();
      this.live.classList.toggle("pg-unseen", this.telling); // the story's card shows it
    }

    // ------------------------------------------------------------ stories

    tell(id, step) {
      this.story = [id, step];
      this.change("", playground.parse(playground.stories[id].steps[step][0]), step === 0);
      this.tellAgain();
      this.say(this.storySentence());
    }

    storySentence() {
      return `${this.storyTitle.textContent}, ${this.dots.textContent}. ${this.storyText.textContent}`;
    }

    tellAgain() {
      const [id, step] = this.story ?? [];
      this.card.hidden = !id;
      this.storyButtons.forEach((button) => button.setAttribute("aria-pressed", String(button.value === id)));
      if (!id) return;
      centre(this.storyButtons.find((button) => button.value === id));
      const { title, steps } = playground.stories[id], other = this.otherAnswer;
      const words = {
        answer: this.answer.name, share: percent(this.answer.share), exact: exactly(this.answer.share),
        otherAnswer: other?.name ?? "…", otherShare: other ? percent(other.share) : "…",
        otherExact: other ? exactly(other.share) : "…",
      };
      this.storyTitle.textContent = title;
      this.storyText.textContent = capital(steps[step][1].replace(/\{(\w+)\}/g, (_, word) => words[word]));
      this.dots.textContent = `${step + 1} of ${steps.length}`;
      this.back.disabled = step === 0;
      this.next.textContent = step === steps.length - 1 ? "Now you" : "Next";
    }

    close() {
      this.story = null;
      this.tellAgain();
      this.canvasBox.focus();
    }

    // ------------------------------------------------------------ the hand

    // Tools work on patches: `at` is where, `start` whether a stroke begins.
    act(at, start, event) {
      const { state } = this;
      if (this.tool === "look") {
        this.hover = null;
        this.choose(at + 1);
      } else if (this.tool === "cover") {
        if (start) this.covering = !state.covered.has(at);
        if (state.covered.has(at) === this.covering) return;
        const covered = new Set(state.covered);
        covered[this.covering ? "add" : "delete"](at);
        this.change(`${this.covering ? "Covered" : "Bared"} ${placeName(at)}`, { ...state, covered }, start);
      } else if (this.tool === "draw") this.brush(at, start, event);
    }

    swap(a, b) {
      this.held = null;
      if (a === b) return this.drawLooks();
      this.change(`Swapped ${placeName(a)} and ${placeName(b)}`, playground.swapped(this.state, a, b));
    }

    // Paint a round dot where the pointer is, or, by keys, a whole patch.
    brush(at, start, event) {
      if (start) this.adopt(this.pixels);
      const [red, green, blue] = [1, 3, 5].map((i) => parseInt(this.colour.slice(i, i + 2), 16));
      const { left, top, width, height } = this.canvasBox.getBoundingClientRect();
      const x = event ? ((event.clientX - left) / width) * SIDE : ((at % GRID) + 0.5) * PATCH;
      const y = event ? ((event.clientY - top) / height) * SIDE : (Math.floor(at / GRID) + 0.5) * PATCH;
      const [oldX, oldY] = start ? [x, y] : this.painted, steps = Math.ceil(Math.hypot(x - oldX, y - oldY)) || 1;
      this.painted = [x, y];
      for (let step = 1; step <= steps; step++) // a quick hand leaves no gaps
        for (let row = 0; row < SIDE; row++)
          for (let column = 0; column < SIDE; column++) {
            const dx = Math.abs(column + 0.5 - oldX - ((x - oldX) * step) / steps);
            const dy = Math.abs(row + 0.5 - oldY - ((y - oldY) * step) / steps);
            if (event ? dx * dx + dy * dy < 2.6 : Math.max(dx, dy) < PATCH / 2)
              this.own.set([red, green, blue], (row * SIDE + column) * 3);
          }
      this.change("Painted", { ...this.state }, false);
    }

    choose(token) {
      this.state = { ...this.state, token };
      this.drawLooks();
      const maps = this.looks[this.state.light === "none" ? "mean" : this.state.light].map;
      const text = maps.canvas.getAttribute("aria-label").split(": ")[1];
      this.say(`${capital(text)} (layer ${this.state.layer + 1}, ${maps.label.toLowerCase()}).`);
    }

    point(event) {
      const at = patchAt(event, this.canvasBox), down = event.type === "pointerdown";
      if (down && event.button) return; // not the first button
      if (down) this.canvasBox.setPointerCapture(event.pointerId);
      this.cursor = null;
      if (event.type === "pointerup") this.stroke = false;
      if (this.tool === "swap") {
        if (down) this.held = at;
        if (event.type === "pointerup" && this.held !== null) return this.swap(this.held, at);
        if (this.held !== null) this.cursor = at;
        return this.drawLooks();
      }
      if (this.tool === "look" && event.pointerType !== "mouse") { // a finger that scrolls the page lifts no pointer here
        if (event.type === "pointerup") this.act(at, true, event);
        return;
      }
      if (event.type === "pointerup") return;
      if (event.buttons & 1) { // a stroke may begin beside the picture
        const start = down || !this.stroke;
        this.stroke = true;
        this.act(at, start, event);
      } else if (this.tool === "look" && event.pointerType === "mouse") {
        this.hover = at;
        this.drawLooks();
      }
    }

    press(event) {
      const steps = { ArrowUp: -GRID, ArrowDown: GRID, ArrowLeft: -1, ArrowRight: 1 }, step = steps[event.key];
      const doing = event.key === "Enter" || event.key === " ";
      if ((!step && !doing && event.key !== "Escape") || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const old = this.cursor ?? Math.max(this.state.token - 1, 0);
      if (event.key === "Escape") this.held = this.cursor = null;
      else if (step) {
        const along = (old % GRID) + (Math.abs(step) === 1 ? step : 0), next = old + step;
        this.cursor = along < 0 || along >= GRID || next < 0 || next >= GRID * GRID ? old : next;
        if (this.tool !== "look") this.say(capital(placeName(this.cursor)));
        else return this.choose(this.cursor + 1);
      } else if (this.tool !== "swap") this.act(old, true);
      else if (this.held !== null) return this.swap(this.held, old);
      else {
        this.held = old;
        this.say(`Took ${placeName(old)}`);
      }
      this.drawLooks();
    }

    async open(file) {
      if (!file) return;
      try {
        const { pixels, note } = await playground.readPicture(file);
        this.adopt(pixels);
        this.change(note.replace(/\.$/, ""), { ...this.state }, false);
      } catch (error) {
        this.say(error.message);
      }
    }

    // ------------------------------------------------------------ elements

    build() {
      const button = (text, click, more = {}) => make("button", { type: "button", click, ...more }, text);
      this.live = make("p", { class: "pg-live", role: "status", "aria-live": "polite" });
      document.addEventListener("dragover", (event) => event.preventDefault()); // else a near miss opens the file instead
      document.addEventListener("drop", (event) => {
        event.preventDefault();
        const [file] = event.dataTransfer.files;
        if (file) this.open(file);
        else this.say("That is no file. Save the picture first, then open it here.");
      });
      return [this.buildStories(button), this.buildTop(button), this.buildScenes(button), this.buildLooks(button),
        this.buildCharts()];
    }

    buildStories(button) {
      this.storyButtons = Object.entries(playground.stories).map(([id, { title }]) =>
        button(title, () => this.tell(id, 0), { value: id }));
      this.storyTitle = make("strong");
      this.storyText = make("p");
      this.dots = make("span", { class: "pg-count" });
      const move = (by) => () => {
        const [id, step] = this.story;
        if (step + by < playground.stories[id].steps.length) this.tell(id, step + by);
        else this.close();
      };
      this.back = button("Back", move(-1));
      this.next = button("Next", move(1), { class: "pg-main" });
      this.card = make("div", { class: "pg-card", hidden: true }, make("div", { class: "pg-head" }, this.storyTitle, this.dots),
        this.storyText, make("div", { class: "pg-row" }, this.back, this.next, button("Close", () => this.close())));
      return make("section", { class: "pg-stories", "aria-label": "Six short stories" },
        make("div", { class: "pg-row pg-chips" }, ...this.storyButtons), this.card);
    }

    buildTop(button) {
      this.canvas = make("canvas", { width: SIDE, height: SIDE, class: "pg-picture" });
      this.light = make("canvas", { width: GRID, height: GRID, class: "pg-light" });
      [this.mark, this.cursorMark, this.heldMark] = ["pg-query", "pg-cursor", "pg-held"].map((name) => new Mark(name));
      this.canvasBox = make("div", {
        class: "pg-stage", tabindex: 0, role: "application", "aria-roledescription": "picture of 8 by 8 patches",
        "aria-label": "The picture. Arrow keys choose a patch, Space or Enter uses the tool on it.",
        keydown: (event) => this.press(event),
        pointerleave: () => {
          this.hover = null;
          this.stroke = false;
          this.drawLooks();
        },
        pointercancel: () => (this.held = null),
      }, this.canvas, this.light, make("span", { class: "pg-grid" }), this.mark.element, this.cursorMark.element,
      this.heldMark.element);
      for (const name of ["pointerdown", "pointermove", "pointerup"])
        this.canvasBox.addEventListener(name, (event) => this.point(event));
      this.hint = make("p", { class: "pg-hint" });
      this.tools = Object.entries(TOOLS).map(([tool, [text]]) => button(text, () => this.take(tool), { value: tool }));
      const shift = (text, name, right, down) => button(text, () =>
        this.change(`Shifted ${name} by one pixel`, playground.shifted(this.state, right, down)),
      { "aria-label": `Shift ${name} by one pixel`, class: "pg-arrow" });
      const actions = make("div", { class: "pg-row", role: "group", "aria-label": "Change the picture" },
        button("Shuffle", () => this.change("Shuffled all patches", playground.shuffled(this.state))),
        button("Rotate", () => this.change("Turned by a quarter", { ...this.state, turn: (this.state.turn + 1) % 4 })),
        make("span", { class: "pg-arrows" }, shift("←", "left", -1, 0), shift("↑", "up", 0, -1),
          shift("↓", "down", 0, 1), shift("→", "right", 1, 0)),
        button("Undo", () => this.undo()),
        button("Reset", () => this.change("As at first",
          { ...playground.fresh(), scene: this.state.scene, beside: this.state.beside })));
      this.swatches = make("div", { class: "pg-row pg-swatches", role: "group", "aria-label": "Colour of the brush" },
        ...Object.entries(COLOURS).map(([name, colour]) =>
          button("", () => this.dip(colour), { value: colour, "aria-label": name, style: `--swatch: ${colour}` })),
        button("Blank sheet", () => {
          this.adopt(this.pixels.map((_, i) => this.grey[i % 3]));
          this.change("A blank sheet", { ...this.state }, false);
        }));
      const stage = make("div", { class: "pg-left" },
        make("div", { class: "pg-row pg-segments", role: "group", "aria-label": "Tool" }, ...this.tools),
        this.canvasBox, this.hint, this.swatches, actions);
      const top = make("div", { class: "pg-top" }, this.buildVerdict(), stage, this.buildAnswer(button));
      this.take("look");
      this.dip(this.colour);
      return top;
    }

    buildAnswer(button) {
      const { classes, networks } = playground.scenes, others = networks.slice(1);
      this.bars = new Bars(classes);
      const options = [{ name: "", label: "nothing" }, ...others];
      this.beside = make("select", { change: () => {
        const beside = this.beside.value;
        this.change(beside ? "A second network" : "One network", { ...this.state, beside });
      } }, ...options.map(({ name, label }) => make("option", { value: name }, label)));
      this.positions = make("input", { type: "checkbox", change: () =>
        this.change(`Positions ${this.positions.checked ? "on" : "off"}`, { ...this.state, positions: this.positions.checked }) });
      this.link = button("Link to this state", () => this.address(), { class: "pg-link" });
      return make("section", { class: "pg-answer", "aria-label": "What the network says" },
        this.bars.element,
        make("div", { class: "pg-row" }, make("label", {}, this.positions, " positions on: the ViT knows where patches lie")),
        make("div", { class: "pg-row" }, make("label", {}, "compare with ", this.beside), this.link),
        this.live);
    }

    // What each network says, in large, and what is true.
    buildVerdict() {
      this.truth = make("span", { class: "pg-small" });
      this.verdicts = [0, 1].map((which) => {
        const parts = ["span", "strong", "span"].map((tag) => make(tag));
        return { parts, row: make("p", { class: `pg-verdict pg-net${which}` }, ...parts) };
      });
      return make("div", { class: "pg-verdicts" }, this.truth, ...this.verdicts.map(({ row }) => row));
    }

    // One network's verdict; an answer of null hides it.
    drawVerdict(which, label, answer) {
      const { parts, row } = this.verdicts[which];
      row.hidden = !label;
      [label ?? "", answer?.name ?? "…", answer ? percent(answer.share) : ""].forEach((text, i) => (parts[i].textContent = text));
    }

    buildScenes(button) {
      const { classes, labels } = playground.scenes;
      this.thumbs = this.scenes.map((pixels, i) => make("button", {
        type: "button", role: "radio", "aria-label": `scene ${i + 1}, ${classes[labels[i]]}`, title: classes[labels[i]],
        click: () => this.scene(i),
      }, canvasOf(pixels)));
      const strip = make("div", { class: "pg-scenes", role: "radiogroup", "aria-label": "Scene", keydown: (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = ((this.state.scene ?? 0) + step + this.thumbs.length) % this.thumbs.length;
        this.scene(next);
        this.thumbs[next].focus();
      } }, ...this.thumbs);
      const input = make("input", { type: "file", class: "pg-file", tabindex: -1, "aria-hidden": "true", change: () => {
        this.open(input.files[0]);
        input.value = "";
      } });
      return make("section", { "aria-label": "Choose a picture" }, strip,
        make("div", { class: "pg-row pg-own" }, button("Open a picture…", () => input.click()), input,
          make("span", { class: "pg-small" }, "or drop one here; it stays in this page")));
    }

    buildLooks(button) {
      this.layers = [...Array(LAYERS).keys()].map((layer) => button(String(layer + 1), () => {
        this.state = { ...this.state, layer };
        this.choose(this.state.token);
      }, { "aria-label": `Layer ${layer + 1}` }));
      this.classToken = button("Class token", () => this.choose(0));
      this.layerOn = make("input", { type: "checkbox", change: () => {
        const layersOff = new Set(this.state.layersOff), { layer } = this.state;
        layersOff[this.layerOn.checked ? "delete" : "add"](layer);
        this.change(`Layer ${layer + 1} ${this.layerOn.checked ? "on" : "off"}`, { ...this.state, layersOff });
      } });
      this.switches = [];
      this.looks = Object.fromEntries(Object.entries(LOOK).map(([key, label]) => {
        const map = new TokenMap(label, (at) => this.choose(at + 1)), text = make("span", { class: "pg-small" });
        const title = button(label, () => {
          this.state = { ...this.state, light: this.state.light === key ? "none" : key };
          this.choose(this.state.token);
        }, { class: "pg-title", title: "light the picture by this map" });
        const foot = make("div", { class: "pg-foot" }, text);
        if (Number(key)) foot.append(this.headSwitch(Number(key) - 1));
        return [key, { map, text, title, box: make("div", {}, title, map.box, foot) }];
      }));
      this.asks = make("b");
      return make("section", { "aria-label": "Where it looks" },
        make("h2", {}, "Where it looks"),
        make("p", { class: "pg-hint" }, "That is attention: in each layer every patch takes in what other patches hold. A map shows " +
          "how much it takes from each, the brighter the more. The class token belongs to no patch: it looks too, and what it has " +
          "gathered becomes the answer. Each layer looks in several ways at once: its heads."),
        make("div", { class: "pg-row" }, make("span", {}, "Layer"),
          make("span", { class: "pg-segments", role: "group", "aria-label": "Layer" }, ...this.layers),
          make("label", {}, this.layerOn, " layer on"), this.classToken),
        make("p", { class: "pg-hint" }, "Who looks: ", this.asks, ". Press a map’s name to lay it over the picture. Rollout " +
          "follows attention back through all layers, down to the patches of the picture."),
        make("div", { class: "pg-maps" }, ...Object.values(this.looks).map(({ box }) => box)));
    }

    headSwitch(head) {
      const box = make("input", { type: "checkbox", "aria-label": `Head ${head + 1} on`, change: () => {
        const { layer } = this.state, headsOff = this.state.headsOff.map((heads) => new Set(heads));
        headsOff[layer][box.checked ? "delete" : "add"](head);
        this.change(`Layer ${layer + 1}, head ${head + 1} ${box.checked ? "on" : "off"}`, { ...this.state, headsOff });
      } });
      this.switches.push(box);
      return make("label", {}, box, " on");
    }

    buildCharts() {
      this.lensRows = new Lens();
      this.distances = new Distances();
      this.cosine = new TokenMap("Cosine of patch states", (at) => this.choose(at + 1));
      this.cosineText = make("span", { class: "pg-small" });
      const chart = (title, text, ...parts) => make("section", { "aria-label": title },
        make("h2", {}, title), make("p", { class: "pg-hint" }, text), ...parts);
      return make("div", { class: "pg-charts" },
        chart("When it makes up its mind", "What it would answer if it ended after this layer: the logit lens.", this.lensRows.element),
        chart("How far each head looks", "A dot per head: the mean distance, in pixels, of what a patch looks at. Dashed: a head that looks everywhere alike.", this.distances.element),
        chart("Who has become alike", "The cosine of each patch’s state with that of the one who looks, after the chosen layer. Bright is alike.",
          make("div", { class: "pg-cosine" }, this.cosine.box, this.cosineText)));
    }

    // ------------------------------------------------------------ small answers

    scene(i) {
      this.story = null;
      this.tellAgain();
      const { turn, shift, order, covered } = playground.fresh();
      this.change(`Scene ${i + 1}`, { ...this.state, scene: i, turn, shift, order, covered });
    }

    // Put the state into the address, and onto the clipboard where the browser lets us.
    async address() {
      location.hash = playground.format(this.state);
      const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
      this.say(`The address of this page now leads to what you see${copied ? "; it is copied" : ""}.`);
    }

    take(tool) {
      this.tool = tool;
      this.held = this.hover = null;
      this.tools.forEach((button) => button.setAttribute("aria-pressed", String(button.value === tool)));
      this.hint.textContent = TOOLS[tool][1];
      this.swatches.hidden = tool !== "draw";
      this.canvasBox.dataset.tool = tool;
    }

    dip(colour) {
      this.colour = colour;
      for (const button of this.swatches.querySelectorAll("[value]"))
        button.setAttribute("aria-pressed", String(button.value === colour));
    }
  }

  const root = document.getElementById("playground-root");
  try {
    playground.page = new Page(root);
  } catch (error) {
    console.warn(error);
  }
})();

// A picture of the reader's own becomes 32 × 32 pixels. It stays in the page.
var playground = globalThis.playground ?? {};

(() => {
  const { SIDE } = playground;
  const LARGEST = 30e6, MOST_PIXELS = 60e6; // bytes, pixels

  const holds = (bytes, text, start = 0, end = bytes.length) => {
    const letters = [...text].map((letter) => letter.charCodeAt(0));
    for (let i = start; i + letters.length <= end; i++) if (letters.every((code, j) => bytes[i + j] === code)) return true;
    return false;
  };

  // Whether a GIF, PNG, WebP or AVIF holds more than one picture.
  function moves(bytes) {
    if (holds(bytes, "GIF8", 0, 4)) {
      let controls = 0; // one graphic control block comes before each picture
      for (let i = 0; i < bytes.length - 2; i++) controls += bytes[i] === 0x21 && bytes[i + 1] === 0xf9 && bytes[i + 2] === 4;
      return controls > 1;
    }
    if (holds(bytes, "PNG", 1, 4)) return holds(bytes, "acTL", 8, 4096);
    if (holds(bytes, "ftypavis", 4, 12)) return true;
    return holds(bytes, "WEBP", 8, 12) && holds(bytes, "ANIM", 12, 64);
  }

  function decoded(address, name) {
    return new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.onerror = () => reject(new Error(`“${name}” is no picture that this browser can read. Try a PNG or a JPEG.`));
      image.src = address;
    });
  }

  // The middle square of an image, shrunk; what is transparent becomes white.
  function shrink(image, width, height) {
    const canvas = document.createElement("canvas"), side = Math.min(width, height);
    [canvas.width, canvas.height] = [SIDE, SIDE];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, SIDE, SIDE);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (width - side) / 2, (height - side) / 2, side, side, 0, 0, SIDE, SIDE);
    return context.getImageData(0, 0, SIDE, SIDE).data.filter((_, i) => i % 4 < 3);
  }

  // Read a dropped file: its pixels [32, 32, 3], and a sentence on what was done to it.
  // Throws an Error whose message is a sentence for the reader.
  async function readPicture(file) {
    if (/svg/.test(file.type) || /\.svgz?$/i.test(file.name))
      throw new Error("An SVG is a drawing without pixels. Save it as a PNG and open that.");
    if (file.size > LARGEST)
      throw new Error(`“${file.name}” has ${Math.round(file.size / 1e6)} MB; at most ${LARGEST / 1e6} are read. Make it smaller first.`);
    const content = await file.arrayBuffer().catch(() => {
      throw new Error(`“${file.name}” cannot be read as a file. If it is a folder, take one picture out of it.`);
    });
    const address = URL.createObjectURL(file);
    try {
      const image = await decoded(address, file.name), { naturalWidth: width, naturalHeight: height } = image;
      if (width * height > MOST_PIXELS)
        throw new Error(`“${file.name}” has ${width} × ${height} pixels, too many to open here. Make it smaller first.`);
      const cut = width === height ? "" : " after its middle was cut out";
      const still = moves(new Uint8Array(content)) ? " It is animated: this is its first frame." : "";
      const note = `Your picture, shrunk to 32 × 32 pixels${cut}.${still} It stays in this page.`;
      return { pixels: shrink(image, width, height), note };
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  playground.readPicture = readPicture;
})();

// Prepares a photo as in the model's evaluation, with the same crop and the same
// antialiased resize as keras_apinet.data.prepare.

// 7/8 of the photo, as in training.
const CROP = 7 / 8;
// Some phones give an empty canvas above 16 million pixels.
const LARGEST = 16e6;

/** Returns the center of a photo as `side` x `side` RGB numbers 0..255, row by row. */
export function prepare(photo, side, resize) {
  const { data, width, height } = pixelsOf(photo);
  const crop = (length) => Math.max(1, roundHalfEven(Math.fround(length * CROP)));
  const short = Math.min(width, height);
  const w = crop(resize === "squash" ? width : short);
  const h = crop(resize === "squash" ? height : short);
  const left = Math.floor((width - w) / 2);
  const top = Math.floor((height - h) / 2);
  const columns = weights(w, side);
  const rows = weights(h, side);
  const narrow = new Float64Array(h * side * 3);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < side; x++) {
      const { first, shares } = columns[x];
      let at = ((top + y) * width + left + first) * 4;
      let r = 0, g = 0, b = 0;
      for (let i = 0; i < shares.length; i++, at += 4) {
        r += shares[i] * data[at];
        g += shares[i] * data[at + 1];
        b += shares[i] * data[at + 2];
      }
      const to = (y * side + x) * 3;
      narrow[to] = r;
      narrow[to + 1] = g;
      narrow[to + 2] = b;
    }
  }
  const image = new Uint8Array(side * side * 3);
  const line = side * 3;
  for (let y = 0; y < side; y++) {
    const { first, shares } = rows[y];
    for (let x = 0; x < line; x++) {
      let sum = 0;
      for (let i = 0; i < shares.length; i++) {
        sum += shares[i] * narrow[(first + i) * line + x];
      }
      image[y * line + x] = Math.min(255, Math.max(0, roundHalfEven(sum)));
    }
  }
  return image;
}

function pixelsOf(photo) {
  const full = { width: photo.videoWidth || photo.width, height: photo.videoHeight || photo.height };
  const scale = Math.min(1, Math.sqrt(LARGEST / (full.width * full.height)));
  const wide = Math.max(1, Math.floor(full.width * scale));
  const high = Math.max(1, Math.floor(full.height * scale));
  const turn = photo.orientation ?? 1;
  const [width, height] = turn >= 5 ? [high, wide] : [wide, high];
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind transparent pixels
  context.fillRect(0, 0, width, height);
  context.setTransform(...UPRIGHT[turn](width, height));
  context.drawImage(photo.bitmap ?? photo, 0, 0, wide, high);
  return context.getImageData(0, 0, width, height);
}

// Transforms that undo each EXIF orientation on a canvas of w x h.
const UPRIGHT = {
  1: () => [1, 0, 0, 1, 0, 0],
  2: (w) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (w, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (w) => [0, 1, -1, 0, w, 0],
  7: (w, h) => [0, -1, -1, 0, w, h],
  8: (w, h) => [0, -1, 1, 0, 0, h],
};

/** Returns, for each of `to` positions, which `from` positions it averages, with weights. */
function weights(from, to) {
  const scale = from / to;
  const reach = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const last = Math.min(from, Math.floor(centre + reach + 0.5));
    const shares = [];
    for (let j = first; j < last; j++) {
      shares.push(Math.max(0, 1 - Math.abs(j + 0.5 - centre) / reach));
    }
    const sum = shares.reduce((a, b) => a + b, 0);
    return { first, shares: shares.map((share) => share / sum) };
  });
}

function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

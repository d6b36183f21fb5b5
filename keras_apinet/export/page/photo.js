// Decodes an image file to upright pixels, like keras_apinet.data.read_photo.
//
// Browsers differ in which orientations, color profiles and gamma values they honor,
// so the file is decoded without any of these, and rotated here.

// As in keras_apinet/data/photos/files.py.
const MAX_PIXELS = 110e6;
const text = (bytes, at, count) => String.fromCharCode(...bytes.subarray(at, at + count));

/** Returns a bitmap as stored and how to rotate it, as input for `prepare`. */
export async function readPhoto(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const { parts, size, exif, xmp } = take(bytes);
  if (size && size[0] * size[1] > MAX_PIXELS) {
    throw new Error(`${size[0]} x ${size[1]} pixels are more than ${MAX_PIXELS}`);
  }
  const bitmap = await createImageBitmap(new Blob(parts ?? [bytes], { type: file.type }), {
    colorSpaceConversion: "none",
  });
  if (bitmap.width * bitmap.height > MAX_PIXELS) {
    bitmap.close();
    throw new Error(`${bitmap.width} x ${bitmap.height} pixels are more than ${MAX_PIXELS}`);
  }
  const orientation = parts ? (tagOf(exif) ?? xmpOf(xmp)) : 1;
  return { bitmap, orientation, width: bitmap.width, height: bitmap.height };
}

/** Returns the parts of a file that hold pixels, its size, and its metadata. */
function take(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return takeJpeg(bytes);
  if (text(bytes, 0, 8) === "\x89PNG\r\n\x1a\n") return takePng(bytes);
  if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 4) === "WEBP") return takeWebp(bytes);
  const view = new DataView(bytes.buffer);
  if (text(bytes, 0, 3) === "GIF" && bytes.length > 10) {
    return { size: [view.getUint16(6, true), view.getUint16(8, true)] };
  }
  return {};
}

function takeJpeg(bytes) {
  const parts = [bytes.subarray(0, 2)];
  const told = { exif: new Uint8Array(0) };
  const view = new DataView(bytes.buffer);
  let at = 2;
  while (at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda) {
    const kind = bytes[at + 1];
    if (kind === 0xff) { at += 1; continue; }
    const end = at + 2 + view.getUint16(at + 2);
    const body = bytes.subarray(at + 4, end);
    if (kind === 0xe1 && text(body, 0, 6) === "Exif\0\0") {
      told.exif = Uint8Array.from([...told.exif, ...body.subarray(6)]);
    }
    if (kind === 0xe1 && text(body, 0, 29) === "http://ns.adobe.com/xap/1.0/\0") told.xmp = body;
    if (kind >= 0xc0 && kind <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(kind) && body.length > 4) {
      told.size = [view.getUint16(at + 7), view.getUint16(at + 5)];
    }
    // JFIF and Adobe's marker say how the colors are stored.
    const kept = kind < 0xe0 || kind === 0xe0 || kind === 0xee;
    if (kept && kind !== 0xfe) parts.push(bytes.subarray(at, end));
    at = end;
  }
  if (!ends(bytes, at)) throw new Error("the file is cut off");
  parts.push(bytes.subarray(at));
  return { ...told, parts };
}

function ends(bytes, from) {
  for (let at = bytes.length - 2; at >= from; at--) {
    if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  }
  return false;
}

function takePng(bytes) {
  const parts = [bytes.subarray(0, 8)];
  const told = {};
  const view = new DataView(bytes.buffer);
  let at = 8, kind = "";
  while (at + 12 <= bytes.length && kind !== "IEND") {
    const end = at + 12 + view.getUint32(at);
    kind = text(bytes, at + 4, 4);
    const body = bytes.subarray(at + 8, end - 4);
    if (kind === "IHDR") told.size = [view.getUint32(at + 8), view.getUint32(at + 12)];
    if (kind === "eXIf") told.exif = body;
    if (kind === "iTXt" && text(body, 0, 19) === "XML:com.adobe.xmp\0\0") told.xmp = body;
    if (["IHDR", "PLTE", "tRNS", "IDAT", "IEND"].includes(kind)) parts.push(bytes.subarray(at, end));
    at = end;
  }
  if (kind !== "IEND") throw new Error("the file is cut off");
  return { ...told, parts };
}

function takeWebp(bytes) {
  const parts = [];
  const told = {};
  const view = new DataView(bytes.buffer);
  let at = 12;
  while (at + 8 <= bytes.length) {
    const kind = text(bytes, at, 4);
    const size = view.getUint32(at + 4, true);
    const end = at + 8 + size + (size % 2);
    const body = bytes.subarray(at + 8, at + 8 + size);
    if (kind === "EXIF") told.exif = text(body, 0, 4) === "Exif" ? body.subarray(6) : body;
    else if (kind === "XMP ") told.xmp = body;
    else if (kind === "VP8X" && size >= 10) {
      const side = (i) => 1 + body[i] + 256 * body[i + 1] + 65536 * body[i + 2];
      told.size = [side(4), side(7)];
      const chunk = bytes.slice(at, end);
      chunk[8] &= ~(0x20 | 0x08 | 0x04); // no profile, no EXIF, no XMP
      parts.push(chunk);
    } else if (kind !== "ICCP") parts.push(bytes.subarray(at, end));
    at = end;
  }
  const head = bytes.slice(0, 12);
  const total = parts.reduce((sum, part) => sum + part.length, 4);
  new DataView(head.buffer).setUint32(4, total, true);
  return { ...told, parts: [head, ...parts] };
}

/** Returns the orientation in EXIF data, of any integer type, or undefined. */
function tagOf(exif) {
  if (!exif || exif.length < 10) return undefined;
  const view = new DataView(Uint8Array.from(exif).buffer);
  const little = exif[0] === 0x49;
  const start = view.getUint32(4, little);
  if (start + 2 > exif.length) return undefined;
  const count = view.getUint16(start, little);
  for (let i = 0, at = start + 2; i < count && at + 12 <= exif.length; i++, at += 12) {
    if (view.getUint16(at, little) !== 0x0112) continue;
    const kind = view.getUint16(at + 2, little);
    if (view.getUint32(at + 4, little) !== 1) return 1;
    if ([1, 6, 7].includes(kind)) return valid(exif[at + 8]);
    if ([3, 8].includes(kind)) return valid(view.getUint16(at + 8, little));
    if ([4, 9].includes(kind)) return valid(view.getUint32(at + 8, little));
    return 1;
  }
  return undefined;
}

function xmpOf(xmp) {
  const words = xmp ? new TextDecoder("latin1").decode(xmp) : "";
  return valid(Number(/tiff:Orientation(?:="|>)([0-9])/.exec(words)?.[1] ?? 1));
}

function valid(value) {
  return value >= 1 && value <= 8 ? value : 1;
}

// PNG -> grey levels for the network; the counterpart of anomalib_gan/runtime/image.py and decoding.py.

import { readFile } from "node:fs/promises";
import { inflateSync } from "node:zlib";
import { PNG } from "pngjs";

const SIGNATURE = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");

/** {pixels, height, width, content, white} of a PNG file: `pixels` are RGBA of 8 or 16 bit, row by row; the lowest
 * `infoBar` rows are no image, and `content` rows are left. White follows from the type of the file or from `bits` or
 * `white`, and never from the brightest pixel. */
export async function readPng(path, { bits = null, white = null, infoBar = 0 } = {}) {
  const file = await readFile(path);
  if (!file.subarray(0, 8).equals(SIGNATURE) || file.length < 33) throw new Error("is no PNG: convert it to one");
  const deep = file[24] === 16; // what has fewer than 8 bits is expanded to 8
  const { data: pixels, height, width } = decode(file, deep);
  if (!Number.isInteger(infoBar) || infoBar < 0 || infoBar >= height) {
    throw new Error(`an info bar of ${infoBar} rows does not fit an image ${height} px high: give 0 to ${height - 1}`);
  }
  const picture = { pixels, height, width, content: height - infoBar, white: whiteOf(deep ? 16 : 8, bits, white) };
  checkLevels(picture);
  return picture;
}

function decode(file, deep) {
  try {
    const chunks = split(file);
    checkLength(chunks);
    // pngjs would blacken the pixels of a transparent colour.
    const kept = chunks.filter(({ kind }) => kind !== "tRNS").map(({ whole }) => whole);
    return PNG.sync.read(Buffer.concat([SIGNATURE, ...kept]), { skipRescale: deep });
  } catch (error) {
    throw new Error(`cannot be decoded (${error.message}): copy or export the file again`);
  }
}

function split(file) {
  const chunks = [];
  for (let at = SIGNATURE.length, end; at + 12 <= file.length; at = end) {
    end = at + 12 + file.readUInt32BE(at);
    const kind = file.toString("latin1", at + 4, at + 8);
    chunks.push({ kind, data: file.subarray(at + 8, end - 4), whole: file.subarray(at, end) });
  }
  return chunks;
}

/** Where the data of an image without interlacing end too early, pngjs takes whatever lies in memory. */
function checkLength([{ data: header }, ...chunks]) {
  const samples = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }[header[9]];
  const row = 1 + Math.ceil((header.readUInt32BE(0) * samples * header[8]) / 8);
  const packed = chunks.filter(({ kind }) => kind === "IDAT").map(({ data }) => data);
  const interlaced = header[12] !== 0;
  if (!interlaced && inflateSync(Buffer.concat(packed)).length < row * header.readUInt32BE(4)) {
    throw new Error("its data end too early");
  }
}

function whiteOf(size, bits, white) {
  if (white !== null) {
    if (!(Number.isFinite(white) && white > 0)) throw new Error(`white ${white} is no grey level: give one above 0`);
    return white;
  }
  const significant = bits ?? size;
  if (!Number.isInteger(significant) || significant < 1 || significant > size) {
    throw new Error(`${bits} bits do not fit pixels of ${size} bit: give 1 to ${size}`);
  }
  return 2 ** significant - 1;
}

function checkLevels({ pixels, width, content, white }) {
  for (let at = 0; at < content * width * 4; at++) {
    if (at % 4 < 3 && pixels[at] > white) {
      throw new Error(`a pixel of ${pixels[at]} lies above white = ${white}: give other bits or white`);
    }
  }
}

/** Float32Array (channels, padded height, padded width) of the content, {height, width} being multiples of `stride`:
 * what lies beyond the image repeats its edge. A grey model takes a colour PNG only if it holds nothing but grey. */
export function planes({ pixels, width, content }, channels, stride) {
  const padded = { height: Math.ceil(content / stride) * stride, width: Math.ceil(width / stride) * stride };
  if (channels === 1) checkGrey(pixels, content * width * 4);
  const data = new Float32Array(channels * padded.height * padded.width);
  let to = 0;
  for (let channel = 0; channel < channels; channel++) {
    for (let y = 0; y < padded.height; y++) {
      const row = Math.min(y, content - 1) * width;
      for (let x = 0; x < padded.width; x++) data[to++] = pixels[(row + Math.min(x, width - 1)) * 4 + channel];
    }
  }
  return { data, ...padded };
}

function checkGrey(pixels, end) {
  for (let at = 0; at < end; at += 4) {
    if (pixels[at] !== pixels[at + 1] || pixels[at] !== pixels[at + 2]) {
      throw new Error("the image has colours but the model was trained on grey images: convert it to grey");
    }
  }
}

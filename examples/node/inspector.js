// The scoring path: a bundle and a PNG go in, score, verdict and defects come out; the counterpart of
// anomalib_gan/runtime/inspector.py for images that are computed in one piece.

import { env, InferenceSession, Tensor } from "onnxruntime-node";
import { loadBundle } from "./bundle.js";
import { planes, readPng } from "./image.js";
import { findDefects, imageScore, maximum, verdict } from "./judgement.js";

env.logLevel = "fatal"; // what is wrong is thrown, too

export class Inspector {
  constructor(manifest, session) {
    this.manifest = manifest;
    this.session = session;
  }

  /** The detector in a bundle's folder. `threads` of the processor; 0: one per core. */
  static async load(folder, { threads = 0 } = {}) {
    const { manifest, model } = await loadBundle(folder);
    try {
      const options = { executionProviders: ["cpu"], intraOpNumThreads: threads, logSeverityLevel: 4 };
      const session = await InferenceSession.create(model, options);
      return new Inspector(manifest, session);
    } catch (error) {
      throw new Error(`${folder}: ONNX Runtime does not take model.onnx (${error.message}): export it again`);
    }
  }

  /** What is found in a PNG file. `infoBar`: rows at the bottom that are no image. `bits`, `white`: the range of grey
   * levels, where the file's type does not tell; without either, the bits that the detector was trained with. */
  async inspect(path, { infoBar = 0, bits = null, white = null } = {}) {
    try {
      const known = bits === null && white === null ? this.manifest.bits : bits;
      return await this.#inspect(await readPng(path, { infoBar, white, bits: known }));
    } catch (error) {
      throw new Error(`${path}: ${error.message}`);
    }
  }

  async #inspect(picture) {
    const { hash, calibration, smallest, white } = this.manifest;
    const { height, width, content } = picture;
    if (Math.min(content, width) < smallest) {
      throw new Error(
        `image ${content}x${width} is smaller than the model's smallest image, ${smallest}x${smallest} px: ` +
          "pad or enlarge it",
      );
    }
    const map = await this.#map(picture);
    const score = imageScore(map, content, width);
    const { count, defects } = findDefects(map, content, width, calibration.pixel);
    const notes = [];
    if (white !== null && white !== picture.white) {
      notes.push(`white is ${picture.white} here and was ${white} in training: right only for files of another kind`);
    }
    if (count > defects.length) {
      notes.push(`${count} defects, of which the ${defects.length} with the largest peaks are listed`);
    }
    return {
      verdict: verdict(calibration, score, count > 0),
      score,
      peak: maximum(map),
      thresholds: { review: calibration.review, reject: calibration.reject, pixel: calibration.pixel },
      defect_count: count,
      defects,
      height,
      width,
      content,
      model: hash,
      notes,
    };
  }

  /** Float32Array (content * width): the map without what pads the image. */
  async #map(picture) {
    const { channels, stride } = this.manifest;
    const { data, height, width } = planes(picture, channels, stride);
    const { anomaly_map: padded } = await this.session.run({
      image: new Tensor("float32", data, [1, channels, height, width]),
      white: new Tensor("float32", [picture.white], []),
    });
    const map = new Float32Array(picture.content * picture.width);
    for (let y = 0; y < picture.content; y++) {
      map.set(padded.data.subarray(y * width, y * width + picture.width), y * picture.width);
    }
    if (!map.every(Number.isFinite)) throw new Error("the model's map is not finite: train it again");
    return map;
  }
}

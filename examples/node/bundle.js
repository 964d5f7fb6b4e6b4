// A bundle's manifest and its graph, both verified; the counterpart of anomalib_gan/runtime/bundle.py.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

const SCHEMA = 1;

/** {manifest, model}: what manifest.json says, and the bytes of model.onnx. Throws where anything is missing, damaged
 * or newer than this program. */
export async function loadBundle(folder) {
  const text = (await read(folder, "manifest.json", `${folder} is no bundle: it holds no manifest.json`)).toString();
  const manifest = parse(folder, text);
  const model = await read(folder, "model.onnx", `${folder}: model.onnx is missing: copy the bundle again`);
  if (sha256(model) !== manifest.files["model.onnx"].sha256) {
    throw new Error(`${folder}: model.onnx is damaged (its SHA-256 is not the manifest's): copy the bundle again`);
  }
  return { manifest, model };
}

async function read(folder, name, missing) {
  try {
    return await readFile(join(folder, name));
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes(error.code)) throw new Error(missing);
    throw new Error(`${folder}: ${name} cannot be read (${error.message})`);
  }
}

function parse(folder, text) {
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch (error) {
    throw new Error(`${folder}: manifest.json is not valid JSON: ${error.message}`);
  }
  // Before all else: a newer schema may have other entries, and another seal.
  if (!Number.isInteger(manifest?.schema) || manifest.schema < 1) {
    throw new Error(`${folder}: manifest.json has no schema: it is no bundle's manifest`);
  }
  if (manifest.schema > SCHEMA) {
    throw new Error(
      `${folder}: the bundle was written by a newer version of anomalib_gan (schema ${manifest.schema}, this program ` +
        `reads ${SCHEMA}): upgrade this program`,
    );
  }
  // Whoever wrote the bundle checked every entry; that none has changed since is all that is left to check.
  if (manifest.sha256 !== seal(text)) {
    throw new Error(`${folder}: manifest.json is damaged, or was edited by hand: copy the bundle again`);
  }
  if (manifest.calibration === null) {
    throw new Error(`${folder} has no calibration, so no verdicts: run \`anomalib-gan calibrate ${folder} --good DIR\``);
  }
  return manifest;
}

const STRING_OR_NUMBER = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const MARK = "\0";

/** The digest that the manifest's entry `sha256` must be: of all other entries as Python's json writes them with sorted
 * keys, without spaces and in ASCII. Python writes 8.0 where JavaScript has 8: numbers keep the digits of the file. */
function seal(text) {
  const marked = text.replace(STRING_OR_NUMBER, (token) => (token[0] === '"' ? token : `"\\u0000${token}"`));
  const { sha256: _, ...entries } = JSON.parse(marked);
  return sha256(canonical(entries));
}

function canonical(value) {
  if (typeof value === "string") return value.startsWith(MARK) ? value.slice(1) : quoted(value);
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return String(value);
  const entries = Object.keys(value).sort().map((key) => `${quoted(key)}:${canonical(value[key])}`);
  return `{${entries.join(",")}}`;
}

function quoted(text) {
  const escaped = (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, escaped);
}

function sha256(data) {
  return createHash("sha256").update(data).digest("hex");
}

#!/usr/bin/env node
// Inspects one PNG with a bundle. Exit codes: 0 accept, 1 review or reject, 2 no verdict.

import { parseArgs } from "node:util";

const USAGE = `Usage: node inspect.js BUNDLE IMAGE.png [--info-bar ROWS] [--bits N | --white LEVEL] [--json]

  --info-bar ROWS   rows at the bottom of the image that are no image
  --bits N          significant bits, such as 12 for a 12-bit detector in 16-bit files
  --white LEVEL     grey level of white
  --json            print one JSON object
`;

async function main() {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      "info-bar": { type: "string" },
      bits: { type: "string" },
      white: { type: "string" },
      json: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  if (positionals.length !== 2) throw new Error("give a bundle and an image; --help tells more");
  if (values.bits !== undefined && values.white !== undefined) throw new Error("give --bits or --white, not both");
  const options = {
    infoBar: number(values, "info-bar") ?? 0,
    bits: number(values, "bits"),
    white: number(values, "white"),
  };
  const [folder, path] = positionals;
  const { Inspector } = await dependencies();
  const inspector = await Inspector.load(folder, { threads: Number(process.env.OMP_NUM_THREADS) || 0 });
  const found = await inspector.inspect(path, options);
  for (const note of found.notes) process.stderr.write(`note: ${note}\n`);
  process.stdout.write(values.json ? `${JSON.stringify({ image: path, ...found })}\n` : report(found));
  return found.verdict === "accept" ? 0 : 1;
}

function number(values, name) {
  if (values[name] === undefined) return null;
  if (!/^\d+(\.\d+)?$/.test(values[name])) throw new Error(`--${name} ${values[name]} is no number`);
  return Number(values[name]);
}

/** Imported late: Node ends with 1, which is a verdict here, where an import at the top fails. */
async function dependencies() {
  try {
    return await import("./inspector.js");
  } catch (error) {
    throw new Error(`the packages cannot be loaded (${error.message}): run \`npm ci\` in the folder of inspect.js`);
  }
}

function report({ verdict, score, thresholds, defect_count: count, defects }) {
  const short = (value) => value.toPrecision(5);
  const lines = [
    `${verdict}: score ${short(score)} (review above ${short(thresholds.review)}, reject above ${short(thresholds.reject)})`,
    `${count} ${count === 1 ? "defect" : "defects"} (above ${short(thresholds.pixel)} in the map)`,
    ...defects.map(
      ({ top, left, bottom, right, area, peak }) =>
        `  top ${top}, left ${left}, bottom ${bottom}, right ${right}: ${area} px, peak ${short(peak)}`,
    ),
  ];
  return `${lines.join("\n")}\n`;
}

function fail(error) {
  process.stderr.write(`error: ${error.message.replace(/\s+/g, " ")}\n`);
  process.exitCode = 2;
}

// Errors that no one awaits, such as a closed pipe, must not end with the code of a verdict either.
process.on("uncaughtException", fail);
main().then((code) => (process.exitCode = code), fail);

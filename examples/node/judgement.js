// From the map to score, defects and verdict; the counterpart of anomalib_gan/runtime/scores.py, defects.py and
// calibration.py, whose comments tell why. Maps are Float32Arrays of height * width finite values, row by row.

const WINDOW = 256;
const STEP = WINDOW / 2;
const HOTTEST = 0.01;
const LIMIT = 10_000;

/** The largest, over windows every STEP pixels and flush with the borders, of the means of each window's hottest 1 %. */
export function imageScore(map, height, width) {
  const windows = starts(height).flatMap((top) => starts(width).map((left) => cut(map, height, width, top, left)));
  let best = -Infinity;
  // A mean is never above the maximum: by falling maximum, one may stop as soon as the best cannot be beaten.
  for (const { peak, rows } of windows.sort((a, b) => b.peak - a.peak)) {
    if (peak <= best) break;
    best = Math.max(best, hottestMean(rows));
  }
  return best;
}

function starts(length) {
  const last = Math.max(length - WINDOW, 0);
  return [...Array.from({ length: Math.ceil(last / STEP) }, (_, index) => index * STEP), last];
}

/** One window: its rows, which are views into the map, and its largest value. */
function cut(map, height, width, top, left) {
  const rows = [];
  for (let y = top; y < Math.min(top + WINDOW, height); y++) {
    rows.push(map.subarray(y * width + left, y * width + Math.min(left + WINDOW, width)));
  }
  return { rows, peak: rows.reduce((most, row) => Math.max(most, maximum(row)), -Infinity) };
}

function hottestMean(rows) {
  const values = new Float32Array(rows.length * rows[0].length);
  rows.forEach((row, index) => values.set(row, index * row.length));
  const hottest = values.sort().subarray(-Math.max(1, Math.ceil(HOTTEST * values.length)));
  return hottest.reduce((sum, value) => sum + value, 0) / hottest.length;
}

export function maximum(values) {
  let most = -Infinity;
  for (const value of values) if (value > most) most = value;
  return most;
}

/** {count, defects}: the number of 8-connected regions strictly above the threshold, and those with the largest peaks.
 * Boxes are half-open, in pixels of the image; row and col are the centroid. */
export function findDefects(map, height, width, threshold) {
  const seen = new Uint8Array(map.length);
  const found = [];
  for (let start = 0; start < map.length; start++) {
    if (map[start] > threshold && !seen[start]) found.push(region(map, height, width, threshold, seen, start));
  }
  const keys = (one) => [-one.peak, one.top, one.left, one.bottom, one.right, one.area, one.row, one.col];
  found.sort((a, b) => difference(keys(a), keys(b)));
  return { count: found.length, defects: found.slice(0, LIMIT) };
}

/** The region that holds the pixel `start`; its pixels become `seen`. */
function region(map, height, width, threshold, seen, start) {
  const box = { top: Infinity, left: Infinity, bottom: 0, right: 0, area: 0, peak: -Infinity };
  let [rows, cols] = [0, 0];
  const waiting = [start];
  seen[start] = 1;
  while (waiting.length) {
    const at = waiting.pop();
    const [y, x] = [Math.floor(at / width), at % width];
    box.top = Math.min(box.top, y);
    box.left = Math.min(box.left, x);
    box.bottom = Math.max(box.bottom, y + 1);
    box.right = Math.max(box.right, x + 1);
    box.area += 1;
    box.peak = Math.max(box.peak, map[at]);
    rows += y;
    cols += x;
    for (let row = Math.max(y - 1, 0); row <= Math.min(y + 1, height - 1); row++) {
      for (let col = Math.max(x - 1, 0); col <= Math.min(x + 1, width - 1); col++) {
        const near = row * width + col;
        if (map[near] > threshold && !seen[near]) {
          seen[near] = 1;
          waiting.push(near);
        }
      }
    }
  }
  return { ...box, row: rows / box.area, col: cols / box.area };
}

function difference(a, b) {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at < 0 ? 0 : a[at] - b[at];
}

/** "accept", "review" or "reject": the worse of the score's verdict and "review" if there is a defect. */
export function verdict({ review, reject }, score, hasDefect) {
  if (score > reject) return "reject";
  return score > review || hasDefect ? "review" : "accept";
}

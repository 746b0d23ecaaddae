// Reads the interval log named on the command line with hdr-histogram-js and prints what it found, as JSON.
// Must not know how loadgen writes one.
import { readFileSync } from "node:fs";
import hdr from "hdr-histogram-js";

const text = readFileSync(process.argv[2], "utf8");
// 64-bit buckets: the narrower ones wrap large counts.
const reader = new hdr.HistogramLogReader(text, 64);
const intervals = [];
for (let found; (found = reader.nextIntervalHistogram()) !== null; ) {
  const counts = [];
  for (let index = 0; index < found.countsArrayLength; index++) {
    const count = found.getCountAtIndex(index);
    if (count !== 0) counts.push([index, count]);
  }
  intervals.push({
    tag: found.tag,
    start_ms: found.startTimeStampMsec,
    end_ms: found.endTimeStampMsec,
    total: found.totalCount,
    // Not maxValue, to which the library adds the smallest unit once more (511 ns here).
    max: found.totalCount ? found.getValueAtPercentile(100) : 0,
    counts,
  });
}
console.log(JSON.stringify({ tags: hdr.listTags(text), intervals }));

// Asks a running server through JavaScript's clients: node clients.mjs http://127.0.0.1:PORT ASSETS
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import OpenAI from "openai";
import { Ollama } from "ollama";

const [url, assets] = process.argv.slice(2);
const cat = (await readFile(`${assets}/cat.png`)).toString("base64");
const question = "What is this?";
const messages = [{ role: "user", content: [
  { type: "text", text: question },
  { type: "image_url", image_url: { url: `data:image/png;base64,${cat}` } },
] }];

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const whole = await openai.chat.completions.create({ model: "owl2", messages });
const text = whole.choices[0].message.content;
assert.match(text, /cat/);
let streamed = "";
for await (const chunk of await openai.chat.completions.create({ model: "owl2", messages, stream: true })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
}
assert.equal(streamed, text);
await assert.rejects(
  openai.chat.completions.create({ model: "owl2", messages, n: 2 }),
  (error) => error.status === 400 && error.param === "n",
);

const ollama = new Ollama({ host: url });
const { models } = await ollama.list();
assert.equal(models.length, 1);
const answer = await ollama.generate({ model: models[0].name, prompt: question, images: [cat] });
assert.equal(answer.response, text);
let pieces = "";
for await (const piece of await ollama.chat({
  model: models[0].name, stream: true, messages: [{ role: "user", content: question, images: [cat] }],
})) {
  pieces += piece.message.content;
}
assert.equal(pieces, text);
console.log("2 passed, 0 failed");

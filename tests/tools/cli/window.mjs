// The window in a browser: node window.mjs URL FOLDER, with playwright-core and a Chromium. It says what is wrong and ends with 1.
//
// The server is one of `astrai serve --demo`, whose pace this script sets. FOLDER gets the screenshots. Then may come the file of a
// recording, and the address of a server of the models a and b that wants the key `secret`.

import { createRequire } from "node:module";
import { existsSync } from "node:fs";
import assert from "node:assert/strict";

const [url, folder, recording, keyed] = process.argv.slice(2);
const modules = process.env.ASTRAI_WINDOW_MODULES ?? "./";
const { chromium } = createRequire(`${modules}/`)("playwright-core");
const executablePath = process.env.ASTRAI_CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const problems = [];

/** A page that notes every error, and every request that goes elsewhere. */
async function open(address, options = {}, expected = null) {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 }, colorScheme: "light", ...options });
  page.on("console", (message) => message.type() === "error" && !expected?.test(message.text()) && problems.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => problems.push(`error: ${error.message}`));
  page.on("request", (request) => !request.url().startsWith(address.split("#")[0]) && !request.url().startsWith("data:") && problems.push(`request: ${request.url()}`));
  await page.goto(address);
  return page;
}

const frames = (page, kind) => page.locator(`#frames .cell.${kind}`).count();
const shot = (page, name, options = {}) => page.screenshot({ path: `${folder}/${name}.png`, ...options });
const until = (page, what, argument) => page.waitForFunction(what, argument, { timeout: 60000 });
const pace = (page, place) => page.locator("#pace").evaluate((slider, value) => {
  slider.value = String(value);
  slider.dispatchEvent(new Event("input", { bubbles: true }));
}, place);
const noScroll = async (page) =>
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing is wider than the page");

async function steps(name, work) {
  console.log(name);
  await work();
}

const page = await open(url);

await steps("frames fill", async () => {
  await page.waitForSelector(".request");
  assert.equal(await page.locator("#frames .cell").count(), 96);
  await until(page, () => document.querySelectorAll("#frames .cell.mine").length >= 4);
  const bits = (await page.locator("#bitmask").innerText()).replace(/[^01]/g, "");
  assert.equal(bits.length, 96);
  // Each frame is in use, cached or free.
  const sum = await page.evaluate(() => ["used", "cached", "free"].reduce((all, name) => all + parseInt(document.querySelector(`#figure-${name}`).textContent, 10), 0));
  assert.equal(sum, 96);
});

await steps("a request is chosen, by the page, by its button and by keys", async () => {
  const request = page.locator(".request").first();
  await until(page, () => document.querySelectorAll('.request[aria-selected="true"]').length === 1 && document.querySelectorAll("#arrows path.tip").length > 0);
  await request.click();
  assert.equal(await request.getAttribute("aria-selected"), "true");
  await until(page, () => {
    const pages = document.querySelectorAll("#logical i").length;
    return pages > 3 && document.querySelectorAll("#arrows path.tip").length === pages;
  });
  await request.press("Escape");
  assert.equal(await page.locator("#arrows path").count(), 0);
  await page.locator("#frames .cell").first().focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowDown");
  assert.match(await page.locator("#frame-info").innerText(), /^Frame \d+ /);
});

await steps("somebody begins like another", async () => {
  await until(page, () => document.querySelectorAll("#frames .cell.both").length >= 4);
  await page.waitForSelector("#tree .page.glow", { timeout: 60000 });
  assert.match(await page.locator("#tree-info").innerText(), /\d+ tokens reused/);
  await shot(page, "shared");
});

await steps("a chat: tokens arrive, it takes frames, it can be stopped", async () => {
  await page.locator("#sampling summary").click();
  await page.locator("[name=max_tokens]").fill("400");
  await page.locator("[name=seed]").fill("7");
  await page.locator("#chat-input").fill("Tell me a story about Mira, the old lighthouse and a silver key.");
  await page.locator("#chat-send").click();
  await until(page, () => document.querySelectorAll(".assistant .token").length >= 3);
  const before = await page.locator(".assistant .token").count();
  await until(page, (n) => document.querySelectorAll(".assistant .token").length > n, before);
  await until(page, () => [...document.querySelectorAll(".request .what")].some((what) => what.textContent.startsWith("yours")));
  await page.locator(".assistant .token").nth(1).hover();
  await page.waitForSelector("#token-card:not([hidden]) .is");
  assert.equal(await page.locator("#token-card div").count() >= 5, true);
  await page.mouse.move(0, 0);
  await page.locator("#chat-stop").click();
  await until(page, () => document.querySelector(".assistant .foot").textContent === "stopped");
  assert.equal(await page.locator("#chat-send").isEnabled(), true);
  await until(page, () => document.querySelector("#log").textContent.includes("was cancelled"));
  await until(page, () => ![...document.querySelectorAll(".request .what")].some((what) => what.textContent.startsWith("yours")));
});

await steps("reasoning is folded, calls are cards, and what a model writes stays text", async () => {
  const evil = "<img src=x onerror=alert(1)><script>alert(2)</script> **not bold**";
  const chunk = (delta, more = {}) => `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: null, ...more }] })}\n\n`;
  const call = (index, fields) => ({ tool_calls: [{ index, ...fields }] });
  const body = chunk({ role: "assistant", content: "" }) + chunk({ reasoning_content: "Let me " }) + chunk({ reasoning_content: "think." }) +
    chunk({ content: evil }, { logprobs: { content: [{ token: "<img", logprob: -0.5, top_logprobs: [] }] } }) +
    chunk(call(0, { id: "c1", type: "function", function: { name: "look", arguments: "{\"at\": " } })) +
    chunk(call(0, { function: { arguments: "\"<b>sky</b>\"}" } })) +
    chunk(call(1, { id: "c2", type: "function", function: { name: "wait", arguments: "{}" } })) + "data: [DONE]\n\n";
  let asked;
  await page.route("**/v1/chat/completions", (route) => {
    asked = JSON.parse(route.request().postData());
    return route.fulfill({ contentType: "text/event-stream", body });
  });
  const ask = async (text) => {
    await page.locator("#chat-input").fill(text);
    await page.locator("#chat-input").press("Enter");
    await until(page, () => !document.querySelector("#chat-send").disabled);
  };
  await ask("one");
  const answer = page.locator(".assistant").last();
  assert.equal(await answer.locator("details.reasoning").evaluate((fold) => fold.open), false);
  assert.equal(await answer.locator("details.reasoning pre").textContent(), "Let me think.");
  assert.equal(await answer.locator(".content").textContent(), evil);
  assert.equal(await answer.locator("img, script").count(), 0);
  assert.deepEqual(await answer.locator(".call").allTextContents(), ['look{"at": "<b>sky</b>"}', "wait{}"]);
  await ask("two");
  const back = asked.messages[asked.messages.length - 2];
  assert.deepEqual([back.role, back.content, back.reasoning_content, back.tool_calls.length], ["assistant", evil, "Let me think.", 2]);
  assert.equal(asked.temperature, 0.8);
  await page.unroute("**/v1/chat/completions");
  await page.locator("#chat-new").click();
});

await steps("pages run out, and come free", async () => {
  await pace(page, 5);
  await until(page, () => document.querySelector("#log").textContent.includes("was sent back"));
  await pace(page, 3);
  await page.locator(".request:not(.waits)").nth(2).click();
  await page.waitForTimeout(600);
  await shot(page, "light");
  await pace(page, 5);
  await until(page, () => document.querySelectorAll("#frames .cell.cached").length > 40);
  await until(page, () => document.querySelectorAll("#race .track i").length > 20);
  const log = await page.locator("#log").innerText();
  assert.match(log, /cached pages? (was|were) given up to make room for/);
  assert.match(log, /reached its maximum of tokens after \d+ tokens\..* pages/);
  assert.equal(await page.locator("#requests").innerText().then((text) => [...text.matchAll(/prefill: (\d+) of (\d+)/g)].some(([, done, all]) => Number(done) > Number(all))), false);
  // The next minute begins with an empty cache.
  await until(page, () => document.querySelectorAll("#frames .cell.free").length > 60);
  await pace(page, 3);
});

await steps("full speed", async () => {
  await pace(page, 6);
  await until(page, () => Number(document.querySelector("#figure-rate").textContent.replace(",", "")) > 40);
  await pace(page, 3);
});

await steps("dark", async () => {
  await page.locator("#theme").click();
  assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");
  await page.close();
  const dark = await open(url, { colorScheme: "dark" });
  await dark.waitForSelector(".request");
  assert.equal(await dark.evaluate(() => document.documentElement.dataset.theme), "dark");
  await until(dark, () => document.querySelectorAll("#frames .cell.mine, #frames .cell.both").length > 10);
  await dark.locator(".request").first().click();
  await dark.waitForTimeout(600);
  await shot(dark, "dark", { fullPage: true });
  await noScroll(dark);
  await dark.close();
});

await steps("a phone", async () => {
  const phone = await open(url, { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true });
  await phone.waitForSelector(".request");
  await phone.locator(".request").first().tap();
  await until(phone, () => document.querySelectorAll("#arrows path.tip").length > 3);
  await noScroll(phone);
  await shot(phone, "phone", { fullPage: true });
  await phone.close();
});

await steps("less motion", async () => {
  const calm = await open(url, { reducedMotion: "reduce" });
  await calm.waitForSelector(".request");
  await until(calm, () => document.querySelectorAll("#frames .cell.mine").length > 0);
  assert.equal(await calm.locator(".cell.allocated, .cell.freed").count(), 0);
  await calm.close();
});

if (recording) {
  await steps("a recording, from a file", async () => {
    const file = await open(`file://${recording}`);
    await file.waitForSelector(".request");
    const clock = await file.locator("#clock").innerText();
    await until(file, (then) => document.querySelector("#clock").textContent !== then, clock);
    await file.locator("#play").click();
    const most = Number(await file.locator("#seek").getAttribute("max"));
    await file.locator("#seek").fill(String(Math.round(most * 0.55)));
    await until(file, () => document.querySelectorAll("#frames .cell.mine").length > 40);
    await file.locator("#seek").fill(String(Math.round(most * 0.1)));
    await until(file, () => document.querySelectorAll("#frames .cell.free").length > 40);
    assert.equal(await file.locator("#chat-form").count(), 0);
    // One step, a mark on the time bar, a time of the log.
    const place = () => file.locator("#seek").evaluate((seek) => Number(seek.value));
    const before = await place();
    await file.locator("#forward").click();
    assert.ok((await place()) > before);
    for (const kind of ["shared", "burst", "back", "cut"]) assert.ok((await file.locator(`#marks .${kind}`).count()) > 0, kind);
    await file.locator("#marks .back").first().click();
    assert.match(await file.locator("#log li").first().innerText(), /was sent back/);
    const time = file.locator("#log button.when").last();
    await time.click();
    assert.ok((await file.locator("#clock").innerText()).startsWith(`${await time.innerText()} / `));
    // Requests that are there together have colours of their own.
    await file.locator("#marks .burst").first().click();
    const colours = await file.locator(".request").evaluateAll((all) => all.map((request) => request.style.getPropertyValue("--fill")));
    assert.deepEqual([colours.length >= 5, new Set(colours).size], [true, colours.length]);
    await shot(file, "recording");
    await file.close();
  });
}

if (keyed) {
  await steps("a key, and two models", async () => {
    const page = await open(keyed, {}, /401/);
    await page.waitForSelector("#key-form:not([hidden])");
    await page.locator("#key").fill("wrong");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#key-form:not([hidden])");
    await page.locator("#key").fill("secret");
    await page.keyboard.press("Enter");
    await until(page, () => document.querySelector("#status").textContent.startsWith("Watching a"));
    await page.locator("#chat-input").fill("Hello");
    await page.keyboard.press("Enter");
    await until(page, () => document.querySelectorAll(".assistant .token").length > 3);
    await page.close();
    const other = await open(`${keyed}#key=secret`);
    await until(other, () => document.querySelector("#status").textContent.startsWith("Watching a"));
    assert.equal(other.url(), keyed, "the key leaves the address");
    await other.locator("#model").selectOption("b");
    await until(other, () => document.querySelector("#status").textContent.startsWith("Watching b"));
    await other.locator("#chat-input").fill("Hello");
    await other.keyboard.press("Enter");
    await until(other, () => document.querySelectorAll("#log li").length > 0);
    await other.close();
  });
}

await browser.close();
assert.deepEqual(problems, []);
console.log("all is as it should be");

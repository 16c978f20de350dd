// The browser of this machine, headless.
import { existsSync } from "node:fs";
import puppeteer, { type Browser } from "puppeteer-core";

export async function startBrowser(): Promise<Browser> {
  const executablePath = ["chromium", "chromium-browser", "google-chrome"]
    .flatMap((name) => process.env.PATH!.split(":").map((folder) => `${folder}/${name}`))
    .find((path) => existsSync(path));
  if (!executablePath) throw new Error("install chromium: scripts/setup does");
  const args = ["--no-sandbox", "--disable-dev-shm-usage", "--enable-features=BackForwardCache"];
  // puppeteer switches the cache off by default.
  const ignoreDefaultArgs = ["--disable-back-forward-cache"];
  return puppeteer.launch({ executablePath, args, ignoreDefaultArgs });
}

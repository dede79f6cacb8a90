"""JavaScript that the site check runs inside a page. Most return a list of sentences."""

# Wait until maths and fonts are done, and the page was painted with them. A change of the view is told to
# the page's own scripts in one frame, and what they did is painted in the next.
SETTLE = """
return (async () => {
  if (window.MathJax && MathJax.startup && MathJax.startup.promise) { await MathJax.startup.promise; }
  await document.fonts.ready;
  for (let frame = 0; frame < 3; frame++) { await new Promise(requestAnimationFrame); }
  return true;
})();
"""

# End every transition at once: colours and side bars are looked at as they will be, without waiting for them.
STILL = """
const style = document.createElement('style');
style.textContent = '*, *::before, *::after { transition: none !important; animation: none !important; }';
document.head.append(style);
"""

MATHS = r"""
const problems = [];
for (const element of document.querySelectorAll('.bd-article .math')) {
  if (!element.querySelector('mjx-container') && !element.closest('mjx-container')) {
    problems.push('maths was not rendered: ' + element.textContent.slice(0, 60));
  }
}
for (const element of document.querySelectorAll('mjx-merror')) {
  problems.push('maths has an error: ' + element.textContent.slice(0, 80));
}
return problems;
"""

OVERFLOW = """
const problems = [];
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width && document.body.scrollWidth <= width) { return problems; }
const scrolls = element => {
  for (let e = element.parentElement; e && e !== document.body; e = e.parentElement) {
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(e).overflowX)) { return true; }
  }
  return false;
};
const wide = [...document.querySelectorAll('body *')].filter(
  e => e.getBoundingClientRect().right > width + 1 && !scrolls(e));
const name = e => e.tagName.toLowerCase() + '.' + String(e.className.baseVal ?? e.className).slice(0, 40);
const names = wide.slice(-3).map(name).join(', ');
problems.push('the page is ' + document.documentElement.scrollWidth + ' pixels wide because of ' + names);
return problems;
"""

# Contrast of every visible text against the first opaque background behind it (WCAG 2 formula).
COLOURS = r"""
const [normal, large, dark] = arguments;
const problems = new Set();
const canvas = document.createElement('canvas');
canvas.width = canvas.height = 1;
const context = canvas.getContext('2d', { willReadFrequently: true });
const seen = new Map();
const parse = text => {
  if (!seen.has(text)) {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    seen.set(text, [r, g, b, a / 255]);
  }
  return seen.get(text);
};
const channel = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const luminance = c => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const over = (top, bottom) => [0, 1, 2].map(i => top[i] * top[3] + bottom[i] * (1 - top[3])).concat([1]);
const background = element => {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour[3] > 0) { layers.push(colour); }
    if (colour[3] >= 0.999) { break; }
  }
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
};
const unread = 'script, style, title, mjx-assistive-mml, .visually-hidden, .sr-only, .headerlink';
const main = document.querySelector('.bd-main') || document.body;
const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim();
  if (!text || element.closest(unread)) { continue; }
  if (!element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })) { continue; }
  const style = getComputedStyle(element);
  const behind = background(element);
  const ink = over(parse(element.closest('svg') ? style.fill : style.color), behind);
  const [a, b] = [luminance(ink), luminance(behind)].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  const size = parseFloat(style.fontSize);
  const big = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
  if (ratio < (big ? large : normal)) {
    const name = element.tagName.toLowerCase() + '.' + String(element.className.baseVal ?? element.className);
    problems.add(`contrast ${ratio.toFixed(2)} of "${text.slice(0, 30)}" (${name.slice(0, 40)})`);
  }
}
const page = luminance(background(document.querySelector('.bd-article') || document.body));
if (dark && page > 0.2) { problems.add('the page stays light although dark was asked for'); }
if (!dark && page < 0.5) { problems.add('the page is dark although light was asked for'); }
return [...problems].slice(0, 12);
"""

# Figures with a transparent background lose their axis labels at night.
PAPER = r"""
const problems = [];
for (const picture of document.querySelectorAll('.bd-article img')) {
  const colour = getComputedStyle(picture).backgroundColor.match(/[\d.]+/g) || [];
  const opaque = colour.length === 3 || (colour.length === 4 && parseFloat(colour[3]) === 1);
  const name = 'the picture ' + picture.getAttribute('src').slice(0, 60);
  if (!opaque) { problems.push(name + ' has no opaque background'); }
  if (picture.complete && picture.naturalWidth === 0) { problems.push(name + ' cannot be shown'); }
}
return problems;
"""

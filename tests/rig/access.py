"""Measures pages for accessibility: focus, contrast, width."""
import re

FOCUS = """(() => { const at = document.activeElement, style = getComputedStyle(at);
  return [at.id || at.textContent, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2]; })()"""

# Each visible text, with its colour, size and weight, and the grounds behind it, the nearest first.
TEXTS = """(() => {
  const out = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), at = walker.currentNode.parentElement;
    if (!text || !at.checkVisibility() || at.closest('.vh, script, noscript')) continue;
    const style = getComputedStyle(at), grounds = [];
    for (let e = at; e; e = e.parentElement) {
      const { backgroundColor } = getComputedStyle(e);
      if (backgroundColor !== 'rgba(0, 0, 0, 0)') grounds.push(backgroundColor);
    }
    // A bar of the book lies under its figure.
    const bar = at.closest('.book td')?.querySelector('i');
    if (bar) grounds.unshift(getComputedStyle(bar).backgroundColor);
    out.push([text, style.color, grounds[0], parseFloat(style.fontSize), Number(style.fontWeight), Number(style.opacity)]);
  }
  return out;
})()"""

OUTSIDE = """(() => { const width = document.documentElement.clientWidth;
  return [document.documentElement.scrollWidth - width, ...[...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility() && !e.matches('.vh, .vh *, .skip') && e.getBoundingClientRect().right > width + 0.5).map(e => e.outerHTML.slice(0, 80))]; })()"""


def luminance(colour):
    """Relative luminance (WCAG 2.2) of `rgb(r, g, b)`; a translucent colour has none."""
    parts = [float(p) for p in re.findall(r"[\d.]+", colour)]
    assert len(parts) == 3, f"not opaque: {colour}"
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (p / 255 for p in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def is_large(size, weight):
    """Whether a text is large (WCAG 2.2) and so needs less contrast; the size is in pixels."""
    return size >= 24 or (size >= 18.66 and weight >= 700)

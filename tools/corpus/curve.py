#!/usr/bin/env python3
"""curve.py OUT.svg RUN...: the losses of runs that followed one another, over the tokens of all."""
import json
import sys

W, H, L, B = 720, 360, 50, 40        # picture, margins at the left and below


def read(run):
    train, val = [], []
    for line in open(run + "/metrics.jsonl"):
        d = json.loads(line)
        (val if "val_loss" in d else train).append((d["tokens"], d.get("val_loss", d.get("smooth"))))
    return train, val


def main():
    at, lines, ends = 0, {"training, smoothed": [], "validation": []}, []
    for run in sys.argv[2:]:
        train, val = read(run)
        for name, points in zip(lines, (train, val)):
            lines[name].append([(at + x, y) for x, y in points])
        at += train[-1][0]
        ends.append(at)
    top = min(6.0, max(y for part in lines["training, smoothed"] for _, y in part))
    px = lambda x: L + (W - L - 10) * x / at
    py = lambda y: H - B - (H - B - 30) * min(y, top) / top
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12"><rect width="{W}" height="{H}" fill="#fff"/>']
    for y in range(int(top) + 1):
        out.append(f'<path d="M{L} {py(y):.1f}H{W - 10}" stroke="#ddd"/><text x="{L - 8}" y="{py(y) + 4:.1f}" text-anchor="end">{y}</text>')
    for e in ends[:-1]:
        out.append(f'<path d="M{px(e):.1f} 30V{H - B}" stroke="#bbb" stroke-dasharray="4 3"/>')
    for (name, parts), color, i in zip(lines.items(), ("#3b6ea5", "#b5482f"), range(2)):
        for part in parts:
            thin = part[::max(1, len(part) // 400)]
            out.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{" ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in thin)}"/>')
        out.append(f'<text x="{W - 170}" y="{24 + 16 * i}" fill="{color}">{name}</text>')
    out.append(f'<text x="{W / 2}" y="{H - 8}" text-anchor="middle">million tokens, {at / 1e6:.1f} in all</text><text x="10" y="20">nats per target</text></svg>')
    open(sys.argv[1], "w").write("\n".join(out) + "\n")


if __name__ == "__main__":
    main()

"""How the demo looks, in light and dark: Gradio's own fonts and variables, one accent colour, room to breathe."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import fonts


def theme() -> gr.themes.Base:
    """A calm theme. Its font comes with Gradio, so nothing is fetched from elsewhere."""
    # 400 and 700: of its other local fonts and weights Gradio brings subsets that lack most letters.
    return gr.themes.Default(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=(fonts.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "Consolas", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_shadow="none",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        color_accent="*primary_700",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        slider_color="*primary_600",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )


CSS = """
body { font-family: var(--font); }
.dark { --color-accent: var(--primary-400); }
.gradio-container { width: 100% !important; max-width: 1120px !important; margin: 0 auto !important; }
.html-container { padding: 0 !important; }
.hf-header { padding: 1.25rem 0 .25rem; }
.hf-header h1 { font-size: 1.75rem; font-weight: 600; letter-spacing: -.01em; margin: 0 0 .3rem; }
.hf-header p { color: var(--body-text-color-subdued); font-size: 1.02rem; margin: 0; max-width: 46rem;
  line-height: 1.5; }
.hf-lead p { color: var(--body-text-color-subdued); margin: .1rem 0 .4rem; max-width: 46rem; line-height: 1.5; }

.hf-hint { border: 1px dashed var(--border-color-primary); border-radius: var(--radius-lg); padding: 2.2rem 1.5rem;
  text-align: center; }
.hf-hint p { color: var(--body-text-color-subdued); margin: 0 auto; max-width: 26rem; line-height: 1.5; }
.hf-alert { border: 1px solid #b45309; border-left-width: 4px; border-radius: var(--radius-lg); padding: .8rem 1rem;
  background: color-mix(in srgb, #f59e0b 10%, var(--block-background-fill)); }
.hf-alert p { margin: 0; line-height: 1.5; color: var(--body-text-color); overflow-wrap: anywhere; }
.hf-status { margin: 0 0 .6rem; font-size: 1.02rem; color: var(--body-text-color); }

.hf-cards { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.hf-many { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.hf-many .hf-thumb { width: 52px; height: 52px; }
.hf-many .hf-bars li { grid-template-columns: 4.9rem 1fr 2.7rem; }
.hf-card { display: flex; gap: 1rem; align-items: flex-start; padding: 1rem; border-radius: var(--radius-lg);
  border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.hf-card > div { flex: 1; min-width: 0; }
.hf-card h2 { margin: 0; font-size: 1.08rem; font-weight: 600; display: flex; align-items: center; gap: .45rem;
  color: var(--body-text-color); }
.hf-card h2 b { margin-left: auto; font-weight: 600; font-variant-numeric: tabular-nums; }
.hf-dot { width: .7rem; height: .7rem; border-radius: 50%; flex: none;
  box-shadow: inset 0 0 0 1px color-mix(in srgb, #000 25%, transparent); }
.hf-facts { color: var(--body-text-color-subdued); font-size: .86rem; margin: .15rem 0 .55rem; }
.hf-thumb { width: 72px; height: 72px; object-fit: cover; border-radius: var(--radius-md); flex: none; }

.hf-bars { list-style: none; margin: 0; padding: 0; display: grid; gap: .28rem; }
.hf-bars li { display: grid; grid-template-columns: 5.4rem 1fr 3rem; gap: .6rem; align-items: center; margin: 0;
  font-size: .9rem; line-height: 1.25; color: var(--body-text-color); }
.hf-bars .hf-value { text-align: right; font-variant-numeric: tabular-nums; color: var(--body-text-color-subdued); }
.hf-track { height: .55rem; border-radius: .3rem; overflow: hidden;
  background: color-mix(in srgb, var(--body-text-color) 9%, transparent); }
.hf-track span { display: block; height: 100%; border-radius: .3rem; min-width: 2px;
  box-shadow: inset 0 0 0 1px color-mix(in srgb, #000 25%, transparent); }

.hf-figure { margin: 0; display: flex; flex-direction: column; align-items: center; gap: .5rem; }
.hf-figure img { width: 100%; max-width: 15rem; aspect-ratio: 1; border-radius: var(--radius-lg); object-fit: contain;
  image-rendering: pixelated; background: color-mix(in srgb, var(--body-text-color) 6%, transparent); }
.hf-figure figcaption { color: var(--body-text-color-subdued); font-size: .92rem; text-align: center; }
.hf-live img { width: 100%; border-radius: var(--radius-lg); display: block; margin-bottom: .75rem; }

.hf-scroll { overflow-x: auto; }
.hf-grid { border-collapse: separate; border-spacing: 0; margin: 0 !important; width: auto !important;
  border: 0 !important; table-layout: fixed; }
.hf-grid :is(thead, tbody, tr, td, th) { border: 0 !important; background: none !important; }
.hf-grid th { font-weight: 600; font-size: .95rem; color: var(--body-text-color); text-align: left;
  padding: .7rem 0 .3rem; }
.hf-grid thead th { text-align: center; color: var(--body-text-color-subdued); font-size: .88rem;
  padding: 0 .4rem 0 0; }
.hf-grid td { padding: 0 .4rem 0 0; text-align: center; vertical-align: top; min-width: 4.4rem; line-height: 1.3; }
.hf-grid img { width: 100%; max-width: 9.5rem; border-radius: var(--radius-md); display: block; margin: 0 auto .2rem; }
.hf-grid td span { font-size: .84rem; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.hf-scroll:focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }

#hf-board-table * { font-family: var(--font) !important; font-variant-numeric: tabular-nums; }
#hf-board-table th { font-weight: 600; }
.hf-about { max-width: 46rem; line-height: 1.6; }
footer .divider { display: none; }
footer a, footer button { color: var(--body-text-color-subdued) !important; }
@media (max-width: 640px) {
  .hf-header h1 { font-size: 1.45rem; }
  .hf-card { padding: .8rem; gap: .75rem; }
  .hf-thumb { width: 52px; height: 52px; }
  .hf-bars li { grid-template-columns: 4.9rem 1fr 2.7rem; }
}
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""

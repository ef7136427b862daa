"""The main job: deep networks traced on real data, as one page."""

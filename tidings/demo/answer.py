"""What the stand-in writes if a model is asked that writes."""

ANSWER = """**How does a lighthouse work?**

A lighthouse shows ships where they are. Three things make it work:

1. *A lamp.* It once burned oil; today it is an LED of a few hundred watts.
2. *A lens.* Fresnel's lens of 1822 bends the light of a whole room into one beam, which is seen 40 kilometres away.
3. *A rhythm.* Each tower has its own: two flashes every ten seconds say "you are off this cape, and no other".

```python
def flash(at: float) -> bool:
    return at % 10 < 0.3 or 2 < at % 10 < 2.3
```

Sailors look the rhythm up in a list of lights. <b>Nothing here is HTML</b>: a page shows an answer as it was written.
"""

"""At which magnification should a segmentation model be trained and run on whole-slide images?

The package is a tower of twelve wings, each a folder that answers one question and names at its door (its
``__init__``) what others may use. From the ground up::

    slides      what are the pixels of a slide at any um/px, and where is tissue?
    outlines    what did a person outline, and what goes back to QuPath?
    metrics     numbers from counts: scores, thresholds, objects, intervals
    cohort      which slides and patients, what is wrong with them, who is tested?
    synthetic   a made-up hospital
    tiles       which pieces does a network see, in which batches?
    networks    building, training and running a network
    maps        a slide through a network into a probability map
    evaluation  tables of counts; arms beside each other; what they cost
    figures     tables and arrays in, figures out
    study       presets, the sweep, the archive, the report
    explore     sliders, the viewer, the page without code

A wing imports only from wings above it in this list, and from the ground: ``errors``, ``files``, ``units``. Notebooks
import wings (``from tlskit import tiles``), so that a call says where it belongs: ``tiles.tile_cohort(...)``.
Importing the package loads nothing heavy.
"""

__version__ = "0.1.0"

"""How far two computations of one thing may be apart: pixels of a frame, features of a frame."""

#: Two decodes of one frame: mean absolute difference of their pixels, of 255.
PIXELS = 2.0

#: The same pixels embedded twice by one machine in one run: cosine of the features, at least.
COSINE_OF_SAME_PIXELS = 0.99999
#: ... where the precision is a half one ...
COSINE_OF_SAME_PIXELS_HALF = 0.999
#: ... where a finished run is verified, on another device perhaps ...
COSINE_OF_SAME_PIXELS_LATER = 0.999
#: ... in a half precision: a device may be so far from the CPU when it loads a model (``network.MOST_DIFFERENT``) ...
COSINE_OF_SAME_PIXELS_LATER_HALF = 0.97
#: ... and where two decoders' pixels differ (0.2 to 0.5 of 255 moved a trained network's features to 0.998).
COSINE_OF_NEAR_PIXELS = 0.98

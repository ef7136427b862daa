"""Every tolerance of the tests, with its reason; known answers bring their own.

`tolerance(kernel, quantity, dtype)` reads the one table. Where nobody knows a network's condition beforehand,
`roundoff.py` measures what it does to rounding errors; its safety factor stands in the table too.
"""

import numpy as np
from portable_cases import GATES

from gradtrace.traces.figures import STACK, recurrent_figures

FLOAT64, FLOAT32 = "float64", "float32"

# (kernel, quantity): (float64, float32, reason)
TABLE = {
    # ULP of normal results over the whole line; the largest measured on any ISA stands above each function, from more
    # points than a test can take.
    ("ulp", "exp"): (1.0, 1.0, "one rounding of 1 + rest"),
    ("ulp", "expm1"): (2.0, 2.0, "two roundings around 2^k - 1"),
    ("ulp", "log"): (1.0, 1.0, "written around the exact f"),
    ("ulp", "log1p"): (1.0, 1.0, "as log; what 1 + x lost is put back"),
    ("ulp", "log2"): (1.1, 1.1, "leading product exact in two parts"),
    ("ulp", "tanh"): (2.5, 2.5, "an exponential, a quotient, a product"),
    ("ulp", "sigmoid"): (2.0, 2.0, "an exponential, a quotient, a product"),
    ("ulp", "erf"): (2.0, 2.0, "1 - erfc beyond 0.85"),
    ("ulp", "erfc"): (6.5, 6.5, "a rational of two rounded polynomials times a gaussian"),
    ("ulp", "phi.linear"): (0.0, 0.0, "exact"),
    ("ulp", "phi.sigmoid"): (2.0, 2.0, "sigmoid"),
    ("ulp", "phi.tanh"): (2.5, 2.5, "tanh"),
    ("ulp", "phi.relu"): (0.0, 0.0, "exact"),
    ("ulp", "phi.leaky_relu"): (0.5, 1.0, "one product; the slope 0.01 rounds to float32 first"),
    ("ulp", "phi.elu"): (1.0, 1.0, "expm1 of negative numbers"),
    ("ulp", "phi.leaky_relu:"): (0.5, 1.5, "as above; near a power of two the slope's rounding is a whole unit"),
    ("ulp", "phi.elu:"): (2.0, 2.0, "expm1 and a product with a rounded constant"),
    ("ulp", "phi.selu"): (2.0, 2.0, "expm1 and a product with a rounded constant"),
    ("ulp", "phi.softplus"): (2.5, 2.5, "a polynomial of a rounded exponential"),
    ("ulp", "phi.gelu"): (5.5, 5.5, "as erfc"),
    ("ulp", "phi.silu"): (3.0, 3.0, "sigmoid and two products"),
    ("ulp", "phi.erf"): (2.0, 2.0, "erf"),
    ("ulp", "phi.hard_tanh"): (0.0, 0.0, "exact"),
    ("ulp", "dphi.linear"): (0.0, 0.0, "exact"),
    ("ulp", "dphi.sigmoid"): (3.0, 3.0, "w (1 - w)"),
    ("ulp", "dphi.tanh"): (3.5, 3.5, "4 w (1 - w)"),
    ("ulp", "dphi.relu"): (0.0, 0.0, "exact"),
    ("ulp", "dphi.leaky_relu"): (0.0, 0.5, "the slope 0.01 rounds to float32"),
    ("ulp", "dphi.elu"): (1.0, 1.0, "exp"),
    ("ulp", "dphi.leaky_relu:"): (0.0, 0.5, "the slope rounds to float32"),
    ("ulp", "dphi.elu:"): (1.5, 1.5, "exp and a product with a rounded constant"),
    ("ulp", "dphi.selu"): (1.5, 1.5, "exp and a product with a rounded constant"),
    ("ulp", "dphi.softplus"): (2.0, 2.0, "sigmoid"),
    ("ulp", "dphi.gelu"): (6.5, 6.5, "as erfc; against 1/2 near the sign change"),
    ("ulp", "dphi.silu"): (4.0, 4.0, "sigmoid times 1 + z sigmoid(-z); against 1/2 near the sign change"),
    ("ulp", "dphi.erf"): (2.5, 2.5, "a gaussian and a product"),
    ("ulp", "dphi.hard_tanh"): (0.0, 0.0, "exact"),
    ("ulp", "subnormal"): (2.5, 2.5, "of the smallest subnormal; products take the power of two last"),
    ("windows", "log2"): (None, 1e-4, "bits; c before a window is rounded to T where all steps at once carry it on"),
    ("ensemble", "log2"): (1e-9, 1e-3, "bits and shares; sums in T, and chaos, which doubles an error a layer"),
    ("ensemble", "inputs"): (1e-12, None, "norms near 6 and cosines, some dozen roundings"),
    ("random", "of the radius"): (None, 6e-7, "a logarithm, a root, a cosine, each a few roundings"),
    ("matrix product", "of the sum of magnitudes"): (2.5e-16, 1.3e-7, "2 u; errors of k terms grow as sqrt(k)"),
    ("matrix product", "beside infinities"): (None, 1e-3, "absolute; columns that do not meet them, entries to 50"),
    ("precision high", "of the sum of magnitudes"): (None, 2.0**-17, "three products of parts of 8 bits"),
    ("precision high", "log2"): (2e-4, None, "bits, float32 traces of a few layers; 2^-17 a product"),
    ("precision high", "cut off"): (1e-4, None, "relative; two parts of 8 bits that are cut off, not rounded: 2^-14"),
    ("exported", "outputs"): (1e-5, 1e-5, "of the largest output; files and their sources are float32"),
    ("exported", "log2"): (1e-4, 1e-4, "bits; float32 sources, whose own order of sums is another"),
    ("precision highest", "cut off"): (1e-6, None, "relative; three parts hold a float32 whole"),
    ("precision highest", "log2"): (1e-5, None, "bits, float32 traces of a few layers"),
    ("oracle", "derivative"): (1e-12, None, "relative; the complex step has no cancellation, a few roundings remain"),
    ("oracle", "activation"): (1e-13, None, "relative to mpmath; erfc is good to 1e-14, exp(-z^2/2) to z^2 u"),
    ("oracle", "gradient"): (1e-12, None, "relative to the largest entry; complex step of a stack of a few layers"),
    ("oracle", "log2"): (1e-10, None, "bits; theory.md H: 8e-14 measured at 600 layers, bound 1.7e-12 for 8 units"),
    ("oracle", "largest derivative"): (1e-9, None, "relative; a grid of step 1e-4 misses a maximum by its square"),
    ("ordered", "log2"): (1e-10, 1e-3, "bits; theory.md H: bounds of 1.7e-12 and 9e-4 at 600 layers, chi_1 < 1"),
    ("deep homogeneous", "log2"): (1e-10, 5e-3, "bits; 3000 layers of the above, errors add as a random walk at most"),
    ("faded", "log2"): (1e-9, 5e-3, "bits; a z of -1,000 is off by 3e-5 in float32, e^z by as much; four layers"),
    ("faded", "any network"): (1e-7, 0.2, "bits; as above, and sums of random terms cancel; a false zero is infinite"),
    ("faded", "entries"): (1e-11, 1e-4, "relative; as the log2, of one layer"),
    ("sweep", "figures"): (1e-9, 2e-4, "bits and cosines; a block may sum in another order; five layers of 6 units"),
    ("sweep", "exact quantiles"): (1e-12, None, "bits up to 100; one interpolation"),
    ("sweep", "bins"): (2.0**-9 + 1e-12, None, "bits; half a bin"),
    ("sweep", "fine bins"): (2.0**-13 + 1e-12, None, "of cosines; half a bin"),
    ("sweep", "deviations"): (5.0, None, "of a normal; one seed in two millions is beyond"),
    ("sweep", "law of narrow networks"): (3.5, None, "standard errors of three exact figures, one seed"),
    ("sweep", "exact root"): (1e-9, None, "relative; a parabola through seven points of a line"),
    ("sweep", "mean field"): (0.02, None, "bits a layer; 1/n of 200 units with slopes of some units, 24 inputs"),
    ("sweep", "moments"): (1e-11, None, "relative and absolute; sums of some thousand float64 values up to 100"),
    ("gains", "identity"): (1e-12, 1e-12, "bits; sums of float64 log2 values up to 2048, one ulp there is 2.3e-13"),
    ("gains", "recomputed"): (1e-12, 2e-5, "bits; n u / ln 2 with n = 40 inputs and a cancellation of 5"),
    ("scaled", "log2"): (1e-12, 1e-5, "bits; the norm of a kept row, whose mantissas are exact; the sum rounds"),
    ("gradient", "entries"): (1e-12, 1e-5, "relative to the largest entry; shallow stacks"),
    ("rounding", "safety"): (16, 16, "a sum of n <= 70 terms errs by sqrt(n) of the model's one rounding"),
    ("kink", "deviations"): (16, 16, "as above, of one z; whoever is further on the other side is wrong"),
    ("kink", "share moved"): (1e-5, 1e-5, "and one entry; u sum |w a| over the spread of z, some 20 u in float32"),
    ("rounding", "floor"): (1e-13, 2e-6, "bits; 16 roundings of float32; of float64 450, a log2 of 500 has ulp 6e-14"),
    ("rounding", "ulps"): (4, 4, "of the largest figure: a gain is the difference of two such"),
    ("statistics", "relative"): (1e-11, 2e-5, "of |mean| + std; the entries carry the forward rounding"),
    ("statistics", "exact input"): (1e-9, 1e-6, "relative; the entries are exact, so only the sums can err"),
    ("directions", "of kept rows"): (1e-13, 4e-7, "absolute, cosines; norms of rows are summed in the network's dtype"),
    ("directions", "copies"): (1e-15, 1e-15, "absolute, a cosine of 1: equal rows, roundings of float64 alone"),
    ("losses", "of targets"): (1e-12, 1e-12, "relative, of losses summed in float64"),
    ("statistics", "share"): (0.0, 0.0, "a count; no entry of these cases lies within rounding of a threshold"),
    ("quantiles", "step"): (1.001 / 256, 1.001 / 256, "bits; numbers are counted in steps of 1/256"),
    ("losses", "relative"): (1e-12, 1e-5, "a logarithm of a sum of n_L exponentials of rounded logits"),
    ("chunks", "log2"): (1e-12, 2e-6, "bits; other blocks, other order of the same sums"),
    ("precision", "float32 against float64"): (None, 1e-3, "bits at depth 600; the acceptance limit of issue 2"),
    ("blocks", "deviation of a normalised row"): (1e-3, 1e-3, "epsilon, 1e-5, beside a variance of 1e-2 and more"),
    ("blocks", "log2"): (None, 1e-4, "bits; float32 against float64, inputs of any size normalised"),
    ("blocks", "row far below epsilon"): (1, 1, "bits; less its mean, a row of 8 has a little less"),
    ("blocks", "bits a block"): (0.05, 0.05, "squared, of 1; 64 blocks of 400 units, a law of infinite width"),
    ("blocks", "bits of all blocks"): (0.35, 0.35, "squared, of log2(e); as above, over 64 blocks"),
    ("blocks", "bits of a healthy network"): (10, 10, "200 layers, where those without blocks lose 400"),
    ("orthogonal", "defect"): (1e-13, 1e-6, "largest entry of W W^T - 1; accumulated reflections, one rounding"),
    ("quarter circle", "mean singular value"): (3e-3, 3e-3, "relative; O(1/n) of the limit law at n = 1000"),
    ("mean field", "slope"): (0.02, 0.02, "relative; issue 2: width 64 at 5,000 layers"),
    # Two ways to the same number.
    ("recomputed", "one rounding"): (1e-15, 6e-8, "relative or absolute; a norm of a few numbers"),
    ("recomputed", "a few roundings"): (1e-14, 1e-7, "likewise"),
    ("recomputed", "tens of roundings"): (1e-13, 2e-7, "likewise; a product of some ten terms"),
    ("recomputed", "sums"): (1e-12, 1e-6, "likewise; another order, or the elementary functions of others"),
    ("recomputed", "sums of sums"): (1e-11, 1e-5, "likewise; several layers or parts of such"),
    ("recomputed", "slopes"): (1e-10, None, "differences of such, over a depth"),
    ("recomputed", "differences"): (1e-9, 1e-4, "of log2 up to some thousands, whose ulp is 4.5e-13"),
    ("log derivative", "near 0"): (4e-15, None, "of ln|phi'|; an ulp of what cancels against ln 2"),
    ("log derivative", "near a sign change"): (1e-13, None, "as ill-conditioned there as phi' itself"),
    ("log derivative", "beyond the leading term"): (1.0, None, "the constant beside -z^2 or z, z of 1e30 and more"),
    # What is printed, rounded; a little more than half a unit of its last digit.
    ("printed", "one decimal"): (0.1, 0.1, "bits; a page rounds for the reader, other instruction sets differ"),
    ("printed", "two decimals"): (0.006, 0.006, "half a unit and its own rounding"),
    ("printed", "three decimals"): (5.001e-4, 5.001e-4, "half a unit and its own rounding"),
    ("printed", "two digits"): (0.06, 0.06, "relative; 1.0 is half a unit of 0.1 wrong, and a little"),
    ("printed", "round number"): (10, 10, "bits of some 330, as a page says it"),
    # What a sample of networks, units or numbers leaves open.
    ("samples", "standard errors"): (4, 4, "one in 16,000 by chance, and the seeds are fixed"),
    ("samples", "standard errors of one"): (3, 3, "one in 370 by chance, and the seed is fixed"),
    ("samples", "standard errors of a share"): (2, 2, "of 1/2, one number, and the seed is fixed"),
    ("samples", "standard errors of many"): (5, 5, "the worst of some ten moments and seeds"),
    ("samples", "standard errors of hundreds"): (4.5, 4.5, "the worst of some hundred columns"),
    ("samples", "spread of seeds"): (2.5, 2.5, "deviations of one published network among those of other seeds"),
    ("drawn", "deviation of weights"): (0.1, 0.1, "relative; a thousand numbers: 1 / sqrt(2 n) is 0.02"),
    ("drawn", "deviation of biases"): (0.5, 0.5, "relative; 32 numbers: 0.125, four of them"),
    ("width", "law of many units"): (0.01, 0.01, "relative; -5/(2n) and 5/n are first terms of a series, n = 512"),
    ("width", "drift"): (0.6, 0.6, "bits; 400 networks: 6 bits of spread over sqrt(400), twice"),
    ("width", "spread"): (0.15, 0.15, "relative; 400 networks, a log-normal with a cut end"),
    ("mean field", "variance of the first layer"): (0.03, 0.03, "relative; one network of 1,000 units, 1,000 samples"),
    ("mean field", "bits of ten critical layers"): (0.8, 0.8, "width 400: its own spread, 16 samples that share it"),
    ("theory", "critical point"): (1e-9, None, "relative; quadrature and a root, against known answers"),
    ("theory", "length at a critical point"): (1e-8, None, "relative; as above, flat in the gain"),
    ("theory", "means"): (1e-12, None, "relative; quadrature against mpmath's, and closed forms"),
    ("theory", "small gap"): (4e-3, None, "absolute, times that of the means; phi rounds, and gaps are differences"),
    ("theory", "gap near 1"): (1e-10, None, "relative, of a difference of two values that agree to six digits"),
    ("theory", "fixed point"): (1e-11, None, "relative; as the means, over one minus the map's slope, 0.05 and more"),
    ("qr", "of a column"): (4e-15, None, "of the column's norm, for the root of the rows; a rounding each"),
    ("qr", "of its diagonal"): (4e-12, None, "relative or bits; the condition of random rows, times a rounding"),
    ("spectrum", "log2"): (1e-9, None, "bits; 30 factors of condition 1e3 at 16 units, and the product's rows as much"),
    ("spectrum", "isometry"): (1e-14, 2e-8, "bits a layer; roundings of the weights, on one side and the other"),
    ("spectrum", "standard errors of 64"): (4.2, None, "one in 600 by chance that one of 64 lies beyond; fixed seed"),
    ("lyapunov", "QR loop"): (1e-10, None, "bits a step; 100 steps, over which rounding errors do not grow"),
    ("lyapunov", "largest"): (0.08, None, "relative; the known answer's own, of a few hundred units and steps"),
    ("lyapunov", "rank"): (0.05, None, "nats a step; the known answer's own, 150 units"),
    ("printed", "sb2"): (3e-5, None, "relative; 2.0105e-5 moves the gain by a tenth of its own half unit"),
    ("printed", "ten decimals"): (6e-11, None, "relative; half a unit of the last digit"),
    ("theory", "rounding"): (2e-14, None, "absolute; of a length that tends to 0"),
    ("theory", "means of pairs"): (1e-11, None, "relative to the gap; QUADPACK to 1e-11 in two dimensions"),
    ("theory", "central difference"): (2e-5, None, "relative; steps of a thousandth, a third of their square"),
    ("theory", "slope at 1"): (1e-5, None, "relative; 1e-7 away, a curvature of some tens"),
    ("theory", "slope at 1 behind a kink"): (1e-3, None, "relative; 1e-7 away, where the map goes on like its root"),
    ("theory", "similarity at finite width"): (5, None, "over the width; absolute, of a cosine, after six layers"),
    ("theory", "cumulants"): (1e-9, None, "relative; the fourth is what its parts leave, at 400 units"),
    ("theory", "first term in 1/n"): (1e-5, None, "relative; the second term at 10^6 units"),
    ("theory", "edge"): (1e-9, None, "relative; a minimum found by two searches"),
    ("theory", "variance at n = 300"): (0.05, None, "relative; six networks, O(1/n) of the limit law"),
    ("theory", "edge at n = 300"): (0.12, None, "relative; six networks, n^(-2/3) of the limit law"),
    ("theory", "integral of ranks"): (1e-8, None, "bits; what is left of a logarithm at the end of the rule"),
    ("theory", "onset"): (5, None, "relative, over gain - 1: the next term of a series in it"),
    ("theory", "gates"): (1e-11, None, "relative; quadrature against mpmath's, products of 10^6 factors"),
    ("printed", "six decimals"): (6e-7, None, "half a unit of the last digit"),
    ("theory", "deviation of seeds"): (0.2, None, "relative; 200 networks, and the first order in 1/n"),
    ("theory", "deviation of an isometry"): (1e-3, None, "bits; float32 keeps norms to 1e-6, whose root this is"),
    ("theory", "limit in width"): (4, None, "standard errors of an extrapolation in 1/n to infinite width"),
    ("theory", "bits a layer"): (0.1, 0.1, "against infinite width; 32 or 64 units, one network"),
    ("theory", "bits a layer of tanh"): (0.15, 0.15, "as above; saturation near the input takes a little more"),
    # What diagnoses, remedies and answers find, against theory.
    ("outset", "slope"): (0.05, 0.05, "relative; means over quarters of 64 sequences against those over all 256"),
    ("outset", "same"): (1e-4, 1e-4, "relative; sums of float32 products, and cosines of what is left of them"),
    ("found", "factor a layer"): (0.01, 0.01, "of 0.236; as many units and layers as the network at hand has"),
    ("found", "factor of the weights"): (0.02, 0.02, "of 3^(-1/2); as above"),
    ("found", "share of units"): (0.05, 0.05, "of 0.4; drawn by chance, a thousand units"),
    ("found", "forget gate"): (0.01, 0.01, "of sigmoid(-2), 0.119; inputs move it a little"),
    ("found", "half-life"): (0.03, 0.03, "steps, of 0.33; as above"),
    ("found", "ratio of half-lives"): (0.05, 0.05, "relative; a median over units against the law of their mean"),
    ("found", "layer that reads 0"): (1, 1, "layers; where the line crosses the format's end"),
    ("found", "bits of a healthy network"): (3, 3, "the issue: the gradient arrives to within 2^3"),
    ("remedies", "bits a layer"): (0.05, 0.05, "of a critical network, 20 layers"),
    ("remedies", "smoothed guess"): (0.01, 0.01, "relative; one is added to each of three counts of some 50"),
    ("remedies", "angle on a ray"): (1e-12, 1e-12, "share of the inputs' angles; float64 rounding, squared"),
    ("remedies", "finite step"): (1e-4, None, "relative; a step of 1e-7 along the gradient, second order and rounding"),
    ("remedies", "outputs"): (1e-4, 1e-4, "float32; inputs standardised by their own mean and deviation"),
    ("remedies", "orthogonal"): (1e-5, 1e-5, "largest entry of W W^T - 1 in float32, 32 units"),
    ("remedies", "lines"): (1e-6, 1e-6, "a bias as the sum of two float32 halves"),
    ("claims", "factor of sigmoid"): (0.005, 0.005, "of 0.23605; width and networks of question 1, seed 0"),
    ("claims", "factor of four times the weights"): (0.02, 0.02, "of 0.6316; as above"),
    ("claims", "product of factors"): (0.01, 0.01, "of 0.236; six seeds"),
    ("claims", "factor a layer"): (0.03, 0.03, "of 0.63 and 1; six seeds"),
    ("claims", "ratio"): (0.1, 0.1, "relative; upper and lower half, six seeds"),
    ("claims", "half of the units"): (0.02, 0.02, "a share; some thousands of units"),
    ("claims", "loss"): (0.005, 0.005, "nats; 50 steps on the way to the guess"),
    ("claims", "bits a layer"): (0.03, 0.03, "medians over networks of some 64 units"),
    ("claims", "bits of a doubling"): (0.02, 0.02, "relu is homogeneous: exactly 2, but for the loss's end"),
    ("claims", "bits of a gain"): (0.1, 0.1, "a layer; of +-1, finite width"),
    ("claims", "bits of a linear layer"): (0.05, 0.05, "of -1; finite width"),
    ("claims", "bits at the edge of chaos"): (0.8, 0.8, "of 60 layers; mean field from q = 1, measured from 0.39"),
    ("claims", "bits of narrow layers"): (0.6, 0.6, "of 30 layers of 16 units, a median over networks"),
    ("claims", "bits of 29 layers"): (1.5, 1.5, "of -14.5; finite width, six seeds"),
    ("claims", "bits of 30 layers"): (1, 1, "of 14.5; finite width, seed 0"),
    ("claims", "bits of 49 layers"): (2, 2, "of -39; finite width"),
    ("claims", "bits of 199 layers"): (4, 4, "of -414; the ends of the line are not on it"),
    ("claims", "bits of distances"): (3, 3, "of -40 over 19 layers; the rate holds at the fixed point only"),
    ("claims", "layers that read 0"): (6, 6, "of 128; where float32 ends"),
    ("recurrent", "log2"): (1e-11, 1e-4, "bits; ten steps of thirty units, n u / ln 2 each, cancellation of 5"),
    ("recurrent", "entries"): (1e-12, 1e-5, "relative to the largest entry; some ten steps"),
    ("recurrent", "statistics"): (1e-12, 2e-6, "of values up to 1; the gates' own rounding, averaged"),
    ("recurrent", "parts"): (1e-12, 1e-5, "relative to the largest entry: direct + gated is the whole, to rounding"),
    ("recurrent long", "log2"): (1e-9, 1e-3, "bits; the limits of the issue: T = 300, and T = 900 in float64"),
    ("recurrent long", "stated"): (0.01, 0.01, "bits of -1119.275, as it is printed; 900 steps of float32"),
    ("recurrent range", "log2"): (1e-6, 1e-6, "bits, and relative; closed forms over hundreds of steps in float32"),
    ("recurrent range", "power of two"): (1e-5, 1e-5, "bits; a factor moves the exponent, the products are exact"),
    ("plain float32", "entries"): (1e-3, 1e-3, "relative; twenty steps of float32 in NumPy's own order"),
    ("plain float32", "floor"): (1e-6, 1e-6, "absolute, where entries cancel"),
    ("Lyapunov", "quiet network"): (0.02, 0.02, "nats; the spectral radius of one matrix, 150 steps"),
    ("Lyapunov", "variance of silence"): (1e-6, 1e-6, "of states that decay to 0"),
    ("Lyapunov", "largest exponent"): (0.08, 0.08, "relative; the known answer's own, N = 300, 400 steps"),
    ("Lyapunov", "exponent of a rank"): (0.05, 0.05, "nats; the known answer's own, N = 150"),
    ("health", "steps"): (None, 3, "of training until the loss is low enough: rounding differs between processors"),
    ("random shapes", "bits"): (1e-9, 0.02, "the issue's limit in float32; what cancels more, 20 times portable's"),
    ("autocast", "log2"): (0.05, None, "bits; some ten products of bfloat16, 2^-8 each, and eight steps of training"),
    ("random modules", "outputs"): (1e-9, None, "of the largest; float64, chains of some ten products"),
    ("random modules", "log2"): (1e-9, None, "bits; as the outputs"),
    ("torch", "log2"): (1e-10, 1e-5, "bits; autograd of a few layers, far from underflow"),
    ("per sample", "log2"): (1e-9, 1e-4, "bits; sums over a thousand rows that cancel a thousandfold"),
    ("torch", "entries"): (1e-12, None, "absolute; float64 autograd, entries up to some tens"),
    ("torch", "answers"): (1e-4, 1e-4, "relative; float32 logits and their softmax, of a few rows"),
    ("torch", "watched"): (1e-6, None, "relative; what the issue asks of norms that hooks measure"),
    ("watched tensor", "relative"): (1e-14, 1e-6, "16 squares are summed in T, then in float64; means round to T"),
    ("torch", "inside"): (1e-9, None, "bits; gradients at outputs come from autograd, then tens of steps of ours"),
    ("torch", "inside changed"): (12.0, 12.0, "bits; over 200 steps, random weights of 64 units vary by 0.5 at each"),
    ("torch", "loss"): (1e-12, 1e-6, "relative; both average the same float sums"),
}  # fmt: skip


def tolerance(kernel, quantity, dtype=FLOAT64):
    return TABLE[kernel, quantity][[FLOAT64, FLOAT32].index(dtype)]


def _in_bits(*axes):
    """Of every layer or sample; `norm_gain` is of normalised layers, whose tests look at it alone."""
    rows = (figure for figure in STACK if figure.unit == "bits" and figure.name != "norm_gain")
    return tuple(figure.name for figure in rows if figure.axes[-1] in axes)


SAMPLES, FIGURES = _in_bits("sample"), _in_bits("sample", "layer")

# Figures of a recurrent trace by cell, with their axes: K directions, S = T + 1 states, T steps, B samples.
_LETTERS = {"layer": "K", "state": "S", "step": "T", "sample": "B", "unit": "H", "gate": "G"}
RECURRENT = {
    cell: {figure.name: "".join(_LETTERS[axis] for axis in figure.axes) for figure in recurrent_figures(cell)}
    for cell in GATES
}
STATISTICS = ("gate_mean", "gate_saturated")


def assert_recurrent(got, exact, dtype, limit=None, names=None):
    """Every figure of a recurrent trace is the oracle's; `limit` of those in bits, or of each one as {name: number}."""
    for name in names or RECURRENT[got.cell]:
        at = tolerance("recurrent", "log2", dtype) if limit is None else limit
        if isinstance(at, dict):
            at = at[name]
        elif name in STATISTICS:
            at = tolerance("recurrent", "statistics", dtype)
        elif name.startswith("forget"):  # steps, relative
            at = tolerance("recurrent", "entries", dtype) * abs(getattr(exact, name)) + 1e-300
        assert_close(getattr(got, name), getattr(exact, name), at, name)


def assert_close(got, expected, limit, what=""):
    """|got - expected| <= limit, where infinities and NaN must be the same."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    with np.errstate(invalid="ignore", divide="ignore"):
        excess = np.where((got == expected) | (np.isnan(got) & np.isnan(expected)), 0.0, abs(got - expected) / limit)
    worst = np.unravel_index(np.argmax(excess), excess.shape) if excess.size else ()
    assert np.all(excess <= 1), (
        f"{what}{[int(i) for i in worst]}: got {got[worst]}, expected {expected[worst]}, "
        f"{np.count_nonzero(~(excess <= 1))} of {got.size} beyond the limit {np.broadcast_to(limit, got.shape)[worst]}"
    )


def assert_figures(got, expected, limit, names=FIGURES):
    """Every named figure of two traces; `limit` is one number or {name: array}."""
    for name in names:
        at = limit[name] if isinstance(limit, dict) else limit
        assert_close(getattr(got, name), getattr(expected, name), at, name)

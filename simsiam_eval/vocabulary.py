"""Names shared by options, files and records. Does not import torch."""

PRECISIONS = ("float32", "bf16")
UNKNOWN_PRECISION = "unknown"  # of imported features
STEMS = ("imagenet", "cifar")
LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4", "pool")
MAP_POOLINGS = ("avg", "max")  # over the positions of feature maps
TOKEN_POOLINGS = ("cls", "mean", "cls+mean")  # of a transformer: class token, mean of the others
POOLINGS = ("auto", *MAP_POOLINGS, *TOKEN_POOLINGS)
CHANNEL_ORDERS = ("rgb", "bgr")
DECODINGS = ("full", "scaled")
CHANNEL_AXES = ("first", "last")  # of an array: (C,H,W) or (H,W,C)
METRICS = ("cosine", "l2")
SCALINGS = ("none", "l2", "standard")
SCHEDULES = ("cosine", "step")
FEATURE_FILE_FORMAT = "simsiam-eval-features"  # the root attribute `format` of a feature file
FEATURE_ENDINGS = (".h5", ".hdf5")
CHECKPOINT_ENDINGS = (".pth", ".pt", ".ckpt", ".tar", ".safetensors", ".bin", ".pkl", ".npz", ".torch", ".pyth")
INDEX_ENDING = ".index"
SHEET_ENDINGS = (".png", ".html")
CHART_ENDINGS = (".png", ".svg", ".pdf")
TIMM = "timm:"  # before the name of a network of timm, as an architecture or as a checkpoint
HUGGING_FACE = "hf:"  # before the class of a model of transformers, or before a folder with one

# Of RGB images, as fractions of 1.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Texts that tables write for a missing value: those of pandas, R, Excel, MATLAB and databases.
NO_VALUE = (
    "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NaN", "nan", "NAN", "-nan", "-NaN", "None", "null", "NULL", "Null", "NaT",
)  # fmt: skip
NO_LABEL = (*NO_VALUE, "-1")  # and the empty text

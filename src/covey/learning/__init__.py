"""Learning: data, models, objectives, optimisers, and the kernels that compute them."""

KINDS = {
    "task": {"learning": "covey.learning.task:LearningTask"},
    "dataset": {
        "digits": "covey.learning.datasets.digits:Digits",
        "mnist": "covey.learning.datasets.images:MNIST",
        "fashion-mnist": "covey.learning.datasets.images:FashionMNIST",
        "cifar10": "covey.learning.datasets.images:CIFAR10",
        "femnist": "covey.learning.datasets.leaf:FEMNIST",
        "celeba": "covey.learning.datasets.leaf:CelebA",
        "shakespeare": "covey.learning.datasets.leaf:Shakespeare",
        "reddit": "covey.learning.datasets.leaf:Reddit",
        "movielens-100k": "covey.learning.datasets.tables:MovieLens100K",
        "movielens-1m": "covey.learning.datasets.tables:MovieLens1M",
        "adult": "covey.learning.datasets.tables:Adult",
        "gaussian-blobs": "covey.learning.datasets.synthetic:GaussianBlobs",
        "synthetic-images": "covey.learning.datasets.synthetic:SyntheticImages",
        "linear-regression": "covey.learning.datasets.synthetic:LinearRegression",
    },
    "partition": {
        "iid": "covey.learning.partition:IID",
        "shards": "covey.learning.partition:Shards",
        "dirichlet": "covey.learning.partition:Dirichlet",
        "quantity": "covey.learning.partition:Quantity",
        "natural": "covey.learning.partition:Natural",
        "file": "covey.learning.partition:FromFile",
    },
    "model": {
        "logistic": "covey.learning.models:Logistic",
        "mlp": "covey.learning.models:MLP",
        "linear": "covey.learning.models:LinearModel",
        "lenet": "covey.learning.models:LeNet",
        "gn-lenet": "covey.learning.models:GNLeNet",
        "femnist-cnn": "covey.learning.models:FemnistCNN",
        "resnet20-gn": "covey.learning.models:ResNet20GN",
        "char-lstm": "covey.learning.models:CharLSTM",
        "matrix-factorization": "covey.learning.models:MatrixFactorization",
    },
    "optimizer": {
        "sgd": "covey.learning.optimizers:SGD",
        "adam": "covey.learning.optimizers:Adam",
    },
    "objective": {
        "own": "covey.learning.objectives:OwnLoss",
        "cross-entropy": "covey.learning.objectives:CrossEntropy",
        "kl": "covey.learning.objectives:KL",
        "mse": "covey.learning.objectives:MSE",
        "l1": "covey.learning.objectives:L1",
    },
    "learning-rate": {
        "constant": "covey.learning.optimizers:ConstantRate",
        "step": "covey.learning.optimizers:StepRate",
        "cosine": "covey.learning.optimizers:CosineRate",
        "inverse-sqrt": "covey.learning.optimizers:InverseSqrtRate",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""

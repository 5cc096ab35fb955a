"""Every key of the configuration with its default and, in a comment, what it does.

`docs/configuration.md` is generated from this file (`make docs`).
"""

from yacs.config import CfgNode

_C = CfgNode()

_C.OUTPUT_DIR = "output"  # folder of the runs
_C.LOG_DIR = "log"  # folder of TensorBoard's files
_C.DATA_DIR = ""  # prefix of the yaml's relative paths
_C.GPUS = (0,)  # GPU numbers; their count times TRAIN.BATCH_SIZE_PER_GPU is the effective batch, on any machine
_C.WORKERS = 4  # data loading processes of all training processes together; 0: the training processes load the data
_C.PRINT_FREQ = 20  # training steps between two log lines
_C.AUTO_RESUME = False  # resume from the last saved state in the run's folder; false: a folder with a run is refused
_C.PIN_MEMORY = True  # batches in page-locked memory (with a GPU only)
_C.RANK = 0  # number in the name of the results file
_C.SEED = 22  # seed of every random draw

_C.CUDNN = CfgNode()
_C.CUDNN.BENCHMARK = True  # try several algorithms and keep the fastest
_C.CUDNN.DETERMINISTIC = False  # only deterministic algorithms
_C.CUDNN.ENABLED = True  # use cuDNN
_C.CUDNN.TF32 = True  # convolutions in TF32, which is PyTorch's default; false: in full float32
_C.CUDNN.TF32_MATMUL = False  # matrix products in TF32 too

_C.MODEL = CfgNode()
_C.MODEL.NAME = "transpose_r"  # transpose_r or transpose_h
_C.MODEL.INIT_WEIGHTS = True  # start from PRETRAINED and the published initialisation; false: from PyTorch's own
_C.MODEL.PRETRAINED = ""  # ImageNet weights of the backbone; '': random initialisation
_C.MODEL.INIT_FROM = ""  # a trained model to start from instead; rows of the last layer are matched by keypoint name
_C.MODEL.NUM_JOINTS = 17  # K: number of keypoints
_C.MODEL.TAG_PER_JOINT = True  # no effect
_C.MODEL.TARGET_TYPE = "gaussian"  # only gaussian
_C.MODEL.IMAGE_SIZE = [256, 256]  # width, height of the network's input in pixels
_C.MODEL.HEATMAP_SIZE = [64, 64]  # width, height; a quarter of IMAGE_SIZE
_C.MODEL.SIGMA = 2.0  # sigma of the target Gaussian, in heatmap pixels
_C.MODEL.BOTTLENECK_NUM = 0  # no effect
_C.MODEL.DIM_MODEL = 256  # d: width of a token
_C.MODEL.DIM_FEEDFORWARD = 512  # h: hidden width of the feed-forward network
_C.MODEL.ENCODER_LAYERS = 6  # layers of the encoder
_C.MODEL.N_HEAD = 8  # attention heads in each layer
_C.MODEL.DROPOUT = 0.1  # dropout in the encoder: attention weights, after attention, in and after the feed-forward part
_C.MODEL.ATTENTION_DROPOUT = True  # false: no dropout on attention weights, so that PyTorch can fuse it on a CPU
_C.MODEL.ATTENTION_ACTIVATION = "relu"  # activation of the feed-forward network: relu or gelu
_C.MODEL.POS_EMBEDDING = "learnable"  # positions: sine, learnable or none
_C.MODEL.PE_ONLY_AT_BEGIN = False  # add the positions in the first layer only
_C.MODEL.INTERMEDIATE_SUP = False  # no effect

_C.MODEL.EXTRA = CfgNode()  # R: for transpose_r only; H: for transpose_h only
_C.MODEL.EXTRA.FINAL_CONV_KERNEL = 1  # 1 or 3
_C.MODEL.EXTRA.NUM_LAYERS = 50  # R: depth of the ResNet: 18, 34, 50, 101 or 152
_C.MODEL.EXTRA.DECONV_WITH_BIAS = False  # R: a bias in the transposed convolution
_C.MODEL.EXTRA.NUM_DECONV_LAYERS = 1  # R: must be 1
_C.MODEL.EXTRA.NUM_DECONV_FILTERS = [256]  # R: channels after each transposed convolution
_C.MODEL.EXTRA.NUM_DECONV_KERNELS = [4]  # R: kernel of each transposed convolution: 2, 3 or 4
_C.MODEL.EXTRA.PRETRAINED_LAYERS = ["*"]  # H: parts taken from MODEL.PRETRAINED; all, if the list begins with '*'
_C.MODEL.EXTRA.STAGE2 = CfgNode()
_C.MODEL.EXTRA.STAGE2.NUM_MODULES = 1  # H: modules of HRNet's second stage
_C.MODEL.EXTRA.STAGE2.NUM_BRANCHES = 2  # H: must be 2
_C.MODEL.EXTRA.STAGE2.BLOCK = "BASIC"  # H: BASIC or BOTTLENECK
_C.MODEL.EXTRA.STAGE2.NUM_BLOCKS = [4, 4]  # H: blocks of each branch
_C.MODEL.EXTRA.STAGE2.NUM_CHANNELS = [48, 96]  # H: channels of each branch
_C.MODEL.EXTRA.STAGE2.FUSE_METHOD = "SUM"  # no effect
_C.MODEL.EXTRA.STAGE3 = CfgNode()
_C.MODEL.EXTRA.STAGE3.NUM_MODULES = 4  # H: modules of HRNet's third stage
_C.MODEL.EXTRA.STAGE3.NUM_BRANCHES = 3  # H: must be 3
_C.MODEL.EXTRA.STAGE3.BLOCK = "BASIC"  # H: BASIC or BOTTLENECK
_C.MODEL.EXTRA.STAGE3.NUM_BLOCKS = [4, 4, 4]  # H: blocks of each branch
_C.MODEL.EXTRA.STAGE3.NUM_CHANNELS = [48, 96, 192]  # H: channels of each branch
_C.MODEL.EXTRA.STAGE3.FUSE_METHOD = "SUM"  # no effect

_C.LOSS = CfgNode()
_C.LOSS.NAME = "mse"  # mse, or ohkm: online hard keypoint mining
_C.LOSS.TOPK = 8  # ohkm: number of keypoints per sample that count, those with the largest loss
_C.LOSS.USE_OHKM = False  # no effect: LOSS.NAME chooses
_C.LOSS.USE_TARGET_WEIGHT = True  # leave invisible keypoints out
_C.LOSS.USE_DIFFERENT_JOINTS_WEIGHT = False  # multiply by the skeleton's joint_weights

_C.DATASET = CfgNode()
_C.DATASET.ROOT = ""  # folder of the data set
_C.DATASET.DATASET = "coco"  # the files' format, coco or mpii; also names the run's folder, unless CATEGORY does
_C.DATASET.TRAIN_SET = "train2017"  # name of the set to train on
_C.DATASET.TEST_SET = "val2017"  # name of the set to test on; one with 'test' in its name has no ground truth
_C.DATASET.CATEGORY = ""  # name of the annotated category; '': person, or the only one in the file
_C.DATASET.SKELETON = ""  # yaml of the keypoints; '': the category's own keypoints, or COCO's where it lists none
_C.DATASET.DATA_FORMAT = "jpg"  # zip: the images are in images/{set}.zip; else in the folder images/{set}
_C.DATASET.IMAGES = ""  # folder or .zip under ROOT; '': images/{set} (mpii: images); {set} is the set's name
_C.DATASET.ANNOTATIONS = ""  # file under ROOT; '': annotations/person_keypoints_{set}.json (mpii: annot/{set}.json)
_C.DATASET.HYBRID_JOINTS_TYPE = ""  # no effect, except that it is appended to a folder of the run's path
_C.DATASET.SELECT_DATA = False  # train only on persons whose visible keypoints lie around the centre of the box
_C.DATASET.CACHE_MB = 0  # MB of decoded images that each process keeps in memory; 0: only the last image
_C.DATASET.MAX_IMAGE_PIXELS = 134_217_728  # an image with more pixels (by its header) is refused before it is decoded
_C.DATASET.DECODED_DIR = ""  # folder for decoded training images, 52 GB for COCO; '': decode each time
_C.DATASET.FLIP = True  # mirror with probability 0.5
_C.DATASET.SCALE_FACTOR = 0.25  # s: the crop is scaled by a normal random factor: mean 1, deviation s, clipped to 1 ± s
_C.DATASET.ROT_FACTOR = 30.0  # degrees; standard deviation of the rotation, which 60 % of the samples get
_C.DATASET.PROB_HALF_BODY = 0.0  # probability of a crop of the upper or the lower half of the body
_C.DATASET.NUM_JOINTS_HALF_BODY = 8  # half-body crops need more visible keypoints than this
_C.DATASET.PROB_UPPER_BODY = 0.6914624612740131  # probability of the upper half; published: P(standard normal < 0.5)
_C.DATASET.COLOR_RGB = False  # true: the network gets RGB, as the published recipes train it; false: BGR

_C.TRAIN = CfgNode()
_C.TRAIN.OPTIMIZER = "adam"  # adam, adamw or sgd
_C.TRAIN.LR = 0.0001  # learning rate
_C.TRAIN.BACKBONE_LR_FACTOR = 1.0  # the backbone's learning rate as a multiple of LR
_C.TRAIN.FREEZE = []  # patterns of parameter names that are not trained, e.g. ['conv1*', 'layer?.*']
_C.TRAIN.SCHEDULE = "cosine"  # cosine: from LR to LR_END over all epochs; multistep: times LR_FACTOR at each LR_STEP
_C.TRAIN.LR_END = 0.00001  # cosine: learning rate at the end
_C.TRAIN.LR_FACTOR = 0.1  # multistep only
_C.TRAIN.LR_STEP = [90, 110]  # multistep only: epochs
_C.TRAIN.WARMUP_EPOCHS = 0  # epochs over which the learning rate rises linearly to the schedule's
_C.TRAIN.WD = 0.0001  # weight decay: of sgd always, of adam and adamw with APPLY_WEIGHT_DECAY only
_C.TRAIN.APPLY_WEIGHT_DECAY = False  # use WD with adam and adamw; the published recipes set WD and train without it
_C.TRAIN.MOMENTUM = 0.9  # sgd only
_C.TRAIN.NESTEROV = False  # sgd only
_C.TRAIN.GAMMA1 = 0.99  # no effect
_C.TRAIN.GAMMA2 = 0.0  # no effect
_C.TRAIN.BEGIN_EPOCH = 0  # number of the first epoch
_C.TRAIN.END_EPOCH = 140  # epochs in all
_C.TRAIN.VALIDATE_EVERY = 1  # epochs between validations; the last epoch is always validated
_C.TRAIN.RESUME = False  # no effect: AUTO_RESUME decides
_C.TRAIN.CHECKPOINT = ""  # no effect
_C.TRAIN.RESUME_CHANGED = False  # resume although the configuration differs from the saved run's
_C.TRAIN.CHECKPOINT_EVERY = 0  # steps between two saved states within an epoch; 0: at its end only
_C.TRAIN.IGNORE_LOCK = False  # start although another run is writing into the same folder
_C.TRAIN.EMA = 0.0  # decay per step of a moving average of the weights, which is validated and saved instead; 0: none
_C.TRAIN.CLIP_GRAD = 0.0  # largest norm of the gradient; 0: no limit
_C.TRAIN.SKIP_NONFINITE = False  # leave out a step whose loss or gradient is NaN or infinite; false: stop the run
_C.TRAIN.BATCH_SIZE_PER_GPU = 32  # samples per step for each entry of GPUS
_C.TRAIN.SHUFFLE = True  # shuffle the samples in each epoch
_C.TRAIN.PRECISION = "float32"  # of forward and backward pass: float32, bfloat16, float16 (GPU only) or auto
_C.TRAIN.COMPILE = False  # run the network through torch.compile, which needs a C++ compiler

_C.TEST = CfgNode()
_C.TEST.BATCH_SIZE_PER_GPU = 32  # crops in a batch
_C.TEST.BACKEND = "pytorch"  # pytorch, openvino or onnxruntime; the last two on the CPU
_C.TEST.PRECISION = "float32"  # float32, bfloat16, float16, auto; onnxruntime: float32 only
_C.TEST.COMPILE = False  # run the network through torch.compile; pytorch only
_C.TEST.FLIP_TEST = False  # average with the heatmaps of the mirrored crop
_C.TEST.BLUR_KERNEL = 3  # odd width of DARK's smoothing, in heatmap pixels
_C.TEST.POST_PROCESS = False  # no effect: DARK decoding is always on
_C.TEST.SHIFT_HEATMAP = False  # no effect: heatmaps of crop and mirrored crop are aligned without a shift
_C.TEST.USE_GT_BBOX = False  # use annotated boxes; false: those of COCO_BBOX_FILE (mpii: always annotated centres)
_C.TEST.COCO_BBOX_FILE = ""  # detections in COCO's results format
_C.TEST.IMAGE_THRE = 0.1  # detections with a lower score are left out
_C.TEST.BBOX_THRE = 1.0  # no effect
_C.TEST.NMS_THRE = 0.6  # no effect
_C.TEST.SOFT_NMS = False  # soft OKS-NMS: similar persons move back in the order, and at most 20 per image are kept
_C.TEST.OKS_THRE = 0.5  # OKS-NMS removes a person whose OKS with a better one is larger
_C.TEST.IN_VIS_THRE = 0.0  # keypoints with a higher score count towards the person's score
_C.TEST.MODEL_FILE = ""  # weights to test; '': final_state.pth in the run's folder

_C.DEBUG = CfgNode()
_C.DEBUG.DEBUG = False  # save pictures every PRINT_FREQ steps and at each validation
_C.DEBUG.SAVE_BATCH_IMAGES_GT = True  # crops with the annotated keypoints
_C.DEBUG.SAVE_BATCH_IMAGES_PRED = True  # crops with the predicted keypoints
_C.DEBUG.SAVE_HEATMAPS_GT = True  # target heatmaps
_C.DEBUG.SAVE_HEATMAPS_PRED = True  # predicted heatmaps
_C.DEBUG.SAVE_ATTENTION = 0  # persons of the test set whose dependency areas are drawn at each validation


def defaults() -> CfgNode:
    """Every key with its default."""
    return _C.clone()

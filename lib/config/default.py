"""Every key of the configuration with its default and, in a comment, what it does."""

from yacs.config import CfgNode

_C = CfgNode()

_C.OUTPUT_DIR = "output"  # runs' folders; a relative path counts from the repository's root
_C.LOG_DIR = "log"  # TensorBoard's folders
_C.DATA_DIR = ""  # put in front of the relative paths below
_C.GPUS = (0,)  # GPU numbers; their count times TRAIN.BATCH_SIZE_PER_GPU is the effective batch, whatever runs it
_C.WORKERS = 4  # data loading processes of all training processes together; 0 loads in the processes themselves
_C.PRINT_FREQ = 20  # training steps between two lines of the log
_C.AUTO_RESUME = False  # continue from the run folder's checkpoint.pth
_C.PIN_MEMORY = True  # page-locked batches (with a GPU only)
_C.RANK = 0  # number in the name of the results file
_C.SEED = 22  # every random draw comes from it, the epoch, and the sample's index or the step

_C.CUDNN = CfgNode()
_C.CUDNN.BENCHMARK = True
_C.CUDNN.DETERMINISTIC = False
_C.CUDNN.ENABLED = True
_C.CUDNN.TF32 = True  # on a GPU, convolutions in TF32, which is PyTorch's default; false: in full float32
_C.CUDNN.TF32_MATMUL = False  # on a GPU, matrix products in TF32 too

_C.MODEL = CfgNode()
_C.MODEL.NAME = "transpose_r"  # transpose_r or transpose_h
_C.MODEL.INIT_WEIGHTS = True  # start from the published initialisation or PRETRAINED; false leaves them as constructed
_C.MODEL.PRETRAINED = ""  # ImageNet weights of the backbone; '' starts from a random initialisation
_C.MODEL.INIT_FROM = ""  # a trained model to start from in place of PRETRAINED, its last layer matched by keypoint
_C.MODEL.NUM_JOINTS = 17
_C.MODEL.TAG_PER_JOINT = True  # legacy
_C.MODEL.TARGET_TYPE = "gaussian"
_C.MODEL.IMAGE_SIZE = [256, 256]  # width, height of the input in pixels
_C.MODEL.HEATMAP_SIZE = [64, 64]  # width, height; a quarter of the input
_C.MODEL.SIGMA = 2.0  # of the target Gaussian, in heatmap pixels
_C.MODEL.BOTTLENECK_NUM = 0  # legacy
_C.MODEL.DIM_MODEL = 256  # d: width of a token
_C.MODEL.DIM_FEEDFORWARD = 512  # h: hidden width of the feed-forward network
_C.MODEL.ENCODER_LAYERS = 6
_C.MODEL.N_HEAD = 8
_C.MODEL.DROPOUT = 0.1  # in the encoder: attention weights, after attention, in and after the feed-forward
_C.MODEL.ATTENTION_DROPOUT = True  # false: none on the attention weights, so that a processor can fuse attention
_C.MODEL.ATTENTION_ACTIVATION = "relu"  # of the feed-forward network: relu or gelu
_C.MODEL.POS_EMBEDDING = "learnable"  # sine, learnable or none
_C.MODEL.PE_ONLY_AT_BEGIN = False  # positions in the first layer only
_C.MODEL.INTERMEDIATE_SUP = False  # legacy

_C.MODEL.EXTRA = CfgNode()
_C.MODEL.EXTRA.FINAL_CONV_KERNEL = 1  # 1 or 3
_C.MODEL.EXTRA.NUM_LAYERS = 50  # R: depth of the ResNet: 18, 34, 50, 101 or 152
_C.MODEL.EXTRA.DECONV_WITH_BIAS = False  # R
_C.MODEL.EXTRA.NUM_DECONV_LAYERS = 1  # R
_C.MODEL.EXTRA.NUM_DECONV_FILTERS = [256]  # R
_C.MODEL.EXTRA.NUM_DECONV_KERNELS = [4]  # R: 2, 3 or 4 each
_C.MODEL.EXTRA.PRETRAINED_LAYERS = ["*"]  # H: stages taken from MODEL.PRETRAINED; a leading '*' takes all
for _name, _modules, _widths in (("STAGE2", 1, [48, 96]), ("STAGE3", 4, [48, 96, 192])):
    _stage = _C.MODEL.EXTRA[_name] = CfgNode()  # H
    _stage.NUM_MODULES = _modules
    _stage.NUM_BRANCHES = len(_widths)
    _stage.BLOCK = "BASIC"  # BASIC or BOTTLENECK
    _stage.NUM_BLOCKS = [4] * len(_widths)
    _stage.NUM_CHANNELS = _widths
    _stage.FUSE_METHOD = "SUM"  # legacy

_C.LOSS = CfgNode()
_C.LOSS.NAME = "mse"  # mse, or ohkm: online hard keypoint mining
_C.LOSS.TOPK = 8  # joints that ohkm keeps of each sample
_C.LOSS.USE_OHKM = False  # legacy: LOSS.NAME chooses
_C.LOSS.USE_TARGET_WEIGHT = True  # leave invisible joints out
_C.LOSS.USE_DIFFERENT_JOINTS_WEIGHT = False  # weigh joints by the skeleton's weights

_C.DATASET = CfgNode()
_C.DATASET.ROOT = ""
_C.DATASET.DATASET = "coco"  # the data's format, coco or mpii, and a folder of the output path
_C.DATASET.TRAIN_SET = "train2017"
_C.DATASET.TEST_SET = "val2017"
_C.DATASET.CATEGORY = ""  # name of the annotated category; '' takes "person", or the only one
_C.DATASET.SKELETON = ""  # yaml of keypoints; '' takes a COCO file's own, and COCO's where it names none
_C.DATASET.DATA_FORMAT = "jpg"  # zip: images/<set>.zip; else the folder images/<set> (mpii: images.zip, images)
_C.DATASET.IMAGES = ""  # under ROOT, in place of images/{set}: a folder or a .zip; {set} becomes the set's name
_C.DATASET.ANNOTATIONS = ""  # under ROOT, in place of annotations/person_keypoints_{set}.json
_C.DATASET.HYBRID_JOINTS_TYPE = ""  # legacy, but appended to the output folder's name
_C.DATASET.SELECT_DATA = False  # train only on persons whose joints lie around the box's centre
_C.DATASET.CACHE_MB = 0  # memory that each process may fill with decoded images; 0 keeps only the last one
_C.DATASET.MAX_IMAGE_PIXELS = 134_217_728  # an image whose header states more is refused before it is decoded
_C.DATASET.DECODED_DIR = ""  # folder that keeps the decoded training images, 52 GB for COCO; '' decodes each time
_C.DATASET.FLIP = True  # mirror with probability 0.5
_C.DATASET.SCALE_FACTOR = 0.25  # of the crop's size: a normal draw around 1 of this deviation, clipped at it
_C.DATASET.ROT_FACTOR = 30.0  # degrees
_C.DATASET.PROB_HALF_BODY = 0.0  # of cropping the upper or the lower half of the body
_C.DATASET.NUM_JOINTS_HALF_BODY = 8  # half-body crops need more visible joints than this
_C.DATASET.PROB_UPPER_BODY = 0.6914624612740131  # of preferring the upper half; published: P(standard normal < 0.5)
_C.DATASET.COLOR_RGB = False

_C.TRAIN = CfgNode()
_C.TRAIN.OPTIMIZER = "adam"  # adam, adamw or sgd
_C.TRAIN.LR = 0.0001
_C.TRAIN.BACKBONE_LR_FACTOR = 1.0  # the backbone's learning rate as a multiple of the rest's
_C.TRAIN.FREEZE = []  # patterns of parameter names that stay as they start, e.g. ['conv1*', 'layer?.*']
_C.TRAIN.SCHEDULE = "cosine"  # cosine: LR to LR_END over END_EPOCH epochs; multistep: times LR_FACTOR at each LR_STEP
_C.TRAIN.LR_END = 0.00001
_C.TRAIN.LR_FACTOR = 0.1
_C.TRAIN.LR_STEP = [90, 110]
_C.TRAIN.WARMUP_EPOCHS = 0  # epochs over which the rate rises linearly to the schedule's
_C.TRAIN.WD = 0.0001  # weight decay of sgd; of adam and adamw only with APPLY_WEIGHT_DECAY
_C.TRAIN.APPLY_WEIGHT_DECAY = False  # the published recipes set WD and train Adam without it
_C.TRAIN.MOMENTUM = 0.9  # sgd
_C.TRAIN.NESTEROV = False  # sgd
_C.TRAIN.GAMMA1 = 0.99  # legacy
_C.TRAIN.GAMMA2 = 0.0  # legacy
_C.TRAIN.BEGIN_EPOCH = 0
_C.TRAIN.END_EPOCH = 140
_C.TRAIN.VALIDATE_EVERY = 1  # epochs between validations; the last epoch is always validated
_C.TRAIN.RESUME = False  # legacy: AUTO_RESUME decides
_C.TRAIN.CHECKPOINT = ""  # legacy
_C.TRAIN.RESUME_CHANGED = False  # resume although the configuration differs from the checkpoint's
_C.TRAIN.CHECKPOINT_EVERY = 0  # optimiser steps between two saved states within an epoch; 0: at its end only
_C.TRAIN.IGNORE_LOCK = False  # start although another run is writing into the same folder
_C.TRAIN.EMA = 0.0  # decay per step of the weights' moving average, which is validated and saved instead; 0 for none
_C.TRAIN.CLIP_GRAD = 0.0  # bound of the gradient's norm; 0 for none
_C.TRAIN.SKIP_NONFINITE = False  # leave out a step whose loss or gradient is NaN or infinite; else the run stops there
_C.TRAIN.BATCH_SIZE_PER_GPU = 32
_C.TRAIN.SHUFFLE = True
_C.TRAIN.PRECISION = "float32"  # of the forward and backward pass: float32, bfloat16 or float16 (GPU only)
_C.TRAIN.COMPILE = False  # torch.compile the network

_C.TEST = CfgNode()
_C.TEST.BATCH_SIZE_PER_GPU = 32
_C.TEST.BACKEND = "pytorch"  # pytorch, openvino or onnxruntime (both on the processor)
_C.TEST.PRECISION = "float32"  # float32, bfloat16 or float16; onnxruntime: float32 only
_C.TEST.COMPILE = False  # torch.compile the network; pytorch only
_C.TEST.FLIP_TEST = False  # average with the prediction for the mirrored crop
_C.TEST.BLUR_KERNEL = 3  # odd width of DARK's smoothing, in heatmap pixels
_C.TEST.POST_PROCESS = False  # legacy: DARK decoding is always on
_C.TEST.SHIFT_HEATMAP = False  # legacy: maps are aligned (size - 1 to size - 1), nothing is shifted
_C.TEST.USE_GT_BBOX = False  # annotated boxes instead of COCO_BBOX_FILE's; mpii always uses the annotated centres
_C.TEST.COCO_BBOX_FILE = ""  # detections: COCO results of category person
_C.TEST.IMAGE_THRE = 0.1  # detections below this score are dropped
_C.TEST.BBOX_THRE = 1.0  # legacy
_C.TEST.NMS_THRE = 0.6  # legacy
_C.TEST.SOFT_NMS = False
_C.TEST.OKS_THRE = 0.5  # OKS-NMS drops a person that overlaps a better one by more
_C.TEST.IN_VIS_THRE = 0.0  # joints above this score count towards the person's
_C.TEST.MODEL_FILE = ""  # weights to test; '' takes final_state.pth of the run's folder

_C.DEBUG = CfgNode()
_C.DEBUG.DEBUG = False  # pictures every PRINT_FREQ steps, in the run's folder and in TensorBoard: of all kinds
_C.DEBUG.SAVE_BATCH_IMAGES_GT = True
_C.DEBUG.SAVE_BATCH_IMAGES_PRED = True
_C.DEBUG.SAVE_HEATMAPS_GT = True
_C.DEBUG.SAVE_HEATMAPS_PRED = True
_C.DEBUG.SAVE_ATTENTION = 0  # persons of the test set whose dependency areas are drawn at each validation


def defaults() -> CfgNode:
    """Every key with its default."""
    return _C.clone()

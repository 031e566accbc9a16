"""Detection datasets (PASCAL VOC, COCO), their checks, training batches and the detections of one image; imports
simsiam_eval only."""

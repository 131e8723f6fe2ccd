"""What Linux's security modules ask at each hook; who answers is a policy's business."""

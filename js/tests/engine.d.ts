// The package takes either engine, and this check needs neither.
declare module "onnxruntime-node";

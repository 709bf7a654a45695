// What Relay's compiler makes of `subscription news { notifications(topic: "news") { payload } }`.

const selections = [
  {
    alias: null,
    args: [{ kind: 'Literal', name: 'topic', value: 'news' }],
    concreteType: 'Notification',
    kind: 'LinkedField',
    name: 'notifications',
    plural: false,
    selections: [{ alias: null, args: null, kind: 'ScalarField', name: 'payload', storageKey: null }],
    storageKey: 'notifications(topic:"news")',
  },
];

export const news = {
  kind: 'Request',
  fragment: {
    argumentDefinitions: [],
    kind: 'Fragment',
    metadata: null,
    name: 'news',
    selections,
    type: 'Subscription',
    abstractKey: null,
  },
  operation: { argumentDefinitions: [], kind: 'Operation', name: 'news', selections },
  params: {
    cacheID: 'news',
    id: null,
    metadata: {},
    name: 'news',
    operationKind: 'subscription',
    text: 'subscription news { notifications(topic: "news") { payload } }',
  },
};

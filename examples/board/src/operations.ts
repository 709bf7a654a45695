import { gql, type TypedDocumentNode } from '@apollo/client';
import type { LiveList } from './useLiveList';

export type Status = 'TODO' | 'DOING' | 'DONE';
export type Task = { id: string; title: string; status: Status; changedBy: string };
export type Message = { id: string; author: string; to: string | null; text: string; sentAt: string };
export type Person = { name: string; typing: boolean };

const TASK_FIELDS = gql`
  fragment TaskFields on Task {
    id
    title
    status
    changedBy
  }
`;

const MESSAGE_FIELDS = gql`
  fragment MessageFields on Message {
    id
    author
    to
    text
    sentAt
  }
`;

export const TASKS: LiveList<Task> = gql`
  subscription Tasks {
    list: tasks {
      snapshot {
        ...TaskFields
      }
      change {
        ...TaskFields
      }
    }
  }
  ${TASK_FIELDS}
`;

export const MESSAGES: LiveList<Message> = gql`
  subscription Messages {
    list: messages {
      snapshot {
        ...MessageFields
      }
      change {
        ...MessageFields
      }
    }
  }
  ${MESSAGE_FIELDS}
`;

export const PRIVATE_MESSAGES: LiveList<Message> = gql`
  subscription PrivateMessages {
    list: privateMessages {
      snapshot {
        ...MessageFields
      }
      change {
        ...MessageFields
      }
    }
  }
  ${MESSAGE_FIELDS}
`;

export const ADD_TASK: TypedDocumentNode<unknown, { id: string; title: string }> = gql`
  mutation AddTask($id: UUID!, $title: String!) {
    addTask(id: $id, title: $title) {
      id
    }
  }
`;

export const MOVE_TASK: TypedDocumentNode<unknown, { id: string; status: Status }> = gql`
  mutation MoveTask($id: UUID!, $status: Status!) {
    moveTask(id: $id, status: $status) {
      id
    }
  }
`;

export const SEND_MESSAGE: TypedDocumentNode<unknown, { id: string; text: string; to: string | null }> = gql`
  mutation SendMessage($id: UUID!, $text: String!, $to: String) {
    sendMessage(id: $id, text: $text, to: $to) {
      id
    }
  }
`;

export const PEOPLE: TypedDocumentNode<{ people: Person[] }, Record<string, never>> = gql`
  subscription People {
    people {
      name
      typing
    }
  }
`;

export const SET_TYPING: TypedDocumentNode<unknown, { typing: boolean }> = gql`
  mutation SetTyping($typing: Boolean!) {
    setTyping(typing: $typing)
  }
`;
